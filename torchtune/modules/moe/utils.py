"""Matrix products of tokens that are grouped by expert."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Set to False to always use the loop.
use_grouped_mm = True


def should_use_grouped_mm() -> bool:
    """Whether torch has a fast grouped matrix product for this device, from compute capability 9.0 on, and may use it."""
    return (
        use_grouped_mm
        and hasattr(F, "grouped_mm")
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability() >= (9, 0)
    )


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Multiply the tokens of each expert ``[n, d]`` by its matrix (``weight [e, d, h]``): ``[n, h]``.

    ``counts [e]`` says how many tokens are each expert's; rows after the last one's give zeros.
    """
    # The kernel reads rows of 16 bytes.
    aligned = all(size % 8 == 0 for size in weight.shape[1:])
    if x.is_cuda and x.dtype == weight.dtype == torch.bfloat16 and aligned and should_use_grouped_mm():
        ends = counts.cumsum(0)
        out = F.grouped_mm(x, weight, offs=ends.to(torch.int32))
        # Rows after the last expert's are whatever was in memory.
        return out.masked_fill((torch.arange(x.shape[0], device=x.device) >= ends[-1]).unsqueeze(1), 0.0)
    sizes = counts.tolist()
    rest = x.shape[0] - sum(sizes)
    groups = x.split([*sizes, rest])
    products = [tokens @ matrix for tokens, matrix in zip(groups[:-1], weight.unbind(0), strict=True)]
    return torch.cat([*products, x.new_zeros(rest, weight.shape[2])])
