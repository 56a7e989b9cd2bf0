"""Padding of one dimension."""

from __future__ import annotations

import torch


def pad_dim_to_size(input: torch.Tensor, size: int, dim: int, *, fill: float = 0.0) -> torch.Tensor:
    """The tensor with a dimension padded at its end.

    Args:
        input: any tensor.
        size: of the dimension after it.
        dim: the dimension.
        fill: what to pad with.

    Raises:
        ValueError: if the dimension is larger than ``size``.
    """
    missing = size - input.shape[dim]
    if missing < 0:
        raise ValueError(f"Tensor size {input.shape[dim]} is larger than requested size {size} along dim {dim}")
    shape = list(input.shape)
    shape[dim] = missing
    return torch.cat([input, input.new_full(shape, fill)], dim=dim)
