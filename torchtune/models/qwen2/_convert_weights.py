"""Qwen2 and Qwen3 weights: rows of q and k stay as they are; tied checkpoints may repeat the embedding as lm_head."""

from __future__ import annotations

from torchtune.models._key_maps import QWEN2_HF
from torchtune.models.convert_weights import StateDict, convert_from_tune, convert_to_tune


def _drop_tied_head(state_dict: StateDict, tied: bool) -> StateDict:
    return {k: v for k, v in state_dict.items() if not (tied and k == "lm_head.weight")}


def qwen2_hf_to_tune(
    state_dict: StateDict,
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
    tie_word_embeddings: bool = False,
) -> StateDict:
    """Convert a Hugging Face Qwen2 checkpoint to ours.

    Args:
        state_dict (StateDict): Hugging Face tensors.
        num_heads (int): not needed, as no rows are reordered.
        num_kv_heads (int): not needed.
        dim (int): not needed.
        head_dim (int | None): not needed.
        tie_word_embeddings (bool): the model has no output weight of its own: ``lm_head.weight`` is left out.

    Returns:
        StateDict: our tensors.

    Raises:
        UnexpectedKey: for a key that the layout lacks.
    """
    return convert_to_tune(_drop_tied_head(state_dict, tie_word_embeddings), QWEN2_HF)


def qwen2_tune_to_hf(
    state_dict: StateDict,
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
    tie_word_embeddings: bool = False,
) -> StateDict:
    """Convert our Qwen2 tensors to a Hugging Face checkpoint; the inverse of :func:`qwen2_hf_to_tune`.

    Args:
        state_dict (StateDict): our tensors.
        num_heads (int): not needed, as no rows are reordered.
        num_kv_heads (int): not needed.
        dim (int): not needed.
        head_dim (int | None): not needed.
        tie_word_embeddings (bool): not needed: a tied model has no output weight to write.

    Returns:
        StateDict: Hugging Face tensors.
    """
    return convert_from_tune(state_dict, QWEN2_HF)
