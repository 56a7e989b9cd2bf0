"""The 4-bit experts of the published gpt-oss checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor

# The sixteen values of a 4-bit float with two bits of exponent and one of mantissa (OCP Microscaling Formats, E2M1).
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = (*_MAGNITUDES, *(-value for value in _MAGNITUDES))
_BIAS = 127


def dequantize_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Plain values ``[e, d, h]`` of MXFP4 weights, each expert's matrix transposed, as unquantized checkpoints hold it.

    ``blocks [e, h, d / 32, 16]`` hold two values per byte, the lower half first; ``scales [e, h, d / 32]`` an exponent for 32
    values, 127 for one. bf16 holds every value exactly.

    Source: https://arxiv.org/abs/2310.10537 (Microscaling), https://arxiv.org/abs/2508.10925 (gpt-oss)
    """
    values = torch.tensor(_VALUES, dtype=dtype, device=blocks.device)
    plain = torch.empty(blocks.shape[0], blocks.shape[2] * 32, blocks.shape[1], dtype=dtype, device=blocks.device)
    for expert, (block, scale) in enumerate(zip(blocks, scales, strict=True)):
        pairs = torch.stack([values[(block & 15).int()], values[(block >> 4).int()]], dim=-1).flatten(-2)
        rows = torch.ldexp(pairs, scale.int().unsqueeze(-1) - _BIAS).to(dtype).flatten(-2)
        plain[expert] = rows.T
    return plain


def gpt_oss_plain(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the names of an unquantized checkpoint: MXFP4 (``*_blocks`` and ``*_scales``) made plain."""
    plain = {key: value for key, value in state_dict.items() if not key.endswith(("_blocks", "_scales"))}
    names = {key.rsplit("_", 1)[0] for key in state_dict if key.endswith(("_blocks", "_scales"))}
    for name in names:
        missing = [name + kind for kind in ("_blocks", "_scales") if name + kind not in state_dict]
        if missing:
            raise ValueError(f"{name} is 4-bit (MXFP4), but the checkpoint lacks {missing}")
        plain[name] = dequantize_mxfp4(state_dict[name + "_blocks"], state_dict[name + "_scales"])
    return plain
