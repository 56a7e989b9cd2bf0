"""NF4 through torchao, imported where a weight is quantized, from wherever this version of torchao keeps it."""

from __future__ import annotations

import functools
import importlib
import math
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

# torchao moved the module after 0.14; the newest home first.
_HOMES = ("torchao.quantization.quantize_.workflows.nf4.nf4_tensor", "torchao.dtypes.nf4tensor")


@functools.cache
def _nf4_module() -> ModuleType:
    """torchao's module with ``to_nf4``, ``linear_nf4`` and ``NF4Tensor``."""
    for home in _HOMES:
        try:
            return importlib.import_module(home)
        except ModuleNotFoundError as error:
            if error.name == "torchao":
                raise ImportError(
                    "NF4 weights (QLoRA, quantize_base=True) need torchao: pip install torchao, or set quantize_base=False"
                ) from error
    raise ImportError(
        f"This torchao has NF4 in none of {', '.join(_HOMES)}: install a version that is tested (constraints.txt), "
        "or set quantize_base=False"
    )


def is_nf4(tensor: Any) -> bool:
    """Whether this is a torchao ``NF4Tensor``; never imports torchao."""
    return any(isinstance(tensor, sys.modules[home].NF4Tensor) for home in _HOMES if home in sys.modules)


def to_nf4(weight: Tensor, block_size: int = 64, scaler_block_size: int | None = None, **unknown: Any) -> Tensor:
    """Quantize to NF4 with double quantization (QLoRA, https://arxiv.org/abs/2305.14314).

    Args:
        weight (Tensor): ``[out, in]``, any device.
        block_size (int): weights that share a scale.
        scaler_block_size (int | None): scales that share a scale of their own; None is 256, or what fits a small weight.
        **unknown (Any): not accepted.

    Returns:
        Tensor: a torchao ``NF4Tensor``.

    Raises:
        TypeError: for unknown arguments.
        ValueError: if the sizes do not divide.
    """
    if unknown:
        raise TypeError(f"Unknown quantization arguments {sorted(unknown)}; known are block_size and scaler_block_size")
    if weight.numel() % block_size:
        raise ValueError(
            f"A weight of shape {tuple(weight.shape)} can't be NF4: its {weight.numel()} values are no multiple of "
            f"block_size={block_size}. Choose another block_size or set quantize_base=False"
        )
    blocks = weight.numel() // block_size
    if scaler_block_size is None:
        scaler_block_size = math.gcd(blocks, 256)
    if blocks % scaler_block_size:
        raise ValueError(
            f"A weight of shape {tuple(weight.shape)} can't be NF4: its {blocks} blocks are no multiple of "
            f"scaler_block_size={scaler_block_size}. Leave scaler_block_size out to have one that fits"
        )
    return _nf4_module().to_nf4(weight.detach(), block_size, scaler_block_size)


def linear_nf4(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer with an NF4 weight, which gets no gradient and is dequantized anew in the backward pass.

    Args:
        x (Tensor): ``[..., in]``.
        weight (Tensor): NF4 ``[out, in]``.
        bias (Tensor | None): ``[out]``.

    Returns:
        Tensor: ``[..., out]``.
    """
    out = _nf4_module().linear_nf4(input=x, weight=weight)
    return out if bias is None else out + bias


def dequantize(weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An NF4 weight as plain numbers; any other tensor stays what it is, but for the dtype.

    Args:
        weight (Tensor): NF4 or plain.
        dtype (torch.dtype | None): of the result; None is the tensor's own.

    Returns:
        Tensor: a plain tensor.
    """
    if is_nf4(weight):
        weight = weight.get_original_weight()  # type: ignore[attr-defined]
    return weight if dtype is None else weight.to(dtype)
