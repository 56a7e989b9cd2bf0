"""Phi-3 weights: q, k, v in one tensor, gate and up in another."""

from __future__ import annotations

from torchtune.models._convert import HeadSizes, StateDict, convert_from_tune, convert_to_tune
from torchtune.models._key_maps import PHI3_HF


def phi3_hf_to_tune(
    state_dict: StateDict, num_heads: int | None = None, num_kv_heads: int | None = None, dim: int | None = None
) -> StateDict:
    """Our tensors from those of a Hugging Face Phi-3 or Phi-4 checkpoint.

    Args:
        state_dict (StateDict): Hugging Face tensors.
        num_heads (int | None): query heads; needed where there are fewer key and value heads.
        num_kv_heads (int | None): key and value heads.
        dim (int | None): embedding size; None splits ``qkv_proj`` into three equal parts.

    Returns:
        StateDict: our tensors.

    Raises:
        ValueError: where ``dim`` is given without the numbers of heads.
    """
    if dim is None:
        return convert_to_tune(state_dict, PHI3_HF)
    if num_heads is None or num_kv_heads is None:
        raise ValueError(
            f"to split qkv_proj by dim={dim}, num_heads and num_kv_heads are needed too; "
            f"they are {num_heads} and {num_kv_heads}"
        )
    return convert_to_tune(state_dict, PHI3_HF, HeadSizes(num_heads, num_kv_heads, dim))


def phi3_tune_to_hf(state_dict: StateDict) -> StateDict:
    """The inverse of :func:`phi3_hf_to_tune`; see :func:`phi3_hf_to_tune`."""
    return convert_from_tune(state_dict, PHI3_HF)
