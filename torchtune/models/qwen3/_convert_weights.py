"""Qwen3 weights: as Qwen2's, and the norms of q and k."""

from __future__ import annotations

from torchtune.models._key_maps import QWEN3_HF
from torchtune.models.convert_weights import StateDict, convert_from_tune, convert_to_tune
from torchtune.models.qwen2._convert_weights import _drop_tied_head


def qwen3_hf_to_tune(
    state_dict: StateDict,
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
    tie_word_embeddings: bool = False,
) -> StateDict:
    """Convert a Hugging Face Qwen3 checkpoint to ours.

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
    return convert_to_tune(_drop_tied_head(state_dict, tie_word_embeddings), QWEN3_HF)


def qwen3_tune_to_hf(
    state_dict: StateDict,
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
    tie_word_embeddings: bool = False,
) -> StateDict:
    """Convert our Qwen3 tensors to a Hugging Face checkpoint; the inverse of :func:`qwen3_hf_to_tune`.

    Args:
        state_dict (StateDict): our tensors.
        num_heads (int): not needed, as no rows are reordered.
        num_kv_heads (int): not needed.
        dim (int): not needed.
        head_dim (int | None): not needed.
        tie_word_embeddings (bool): write the embedding as ``lm_head.weight`` too, as published checkpoints do.

    Returns:
        StateDict: Hugging Face tensors.
    """
    converted = convert_from_tune(state_dict, QWEN3_HF)
    if tie_word_embeddings and "model.embed_tokens.weight" in converted:
        converted["lm_head.weight"] = converted["model.embed_tokens.weight"]
    return converted
