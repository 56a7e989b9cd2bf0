"""NF4 through torchao, imported where a weight is quantized, from wherever this version of torchao keeps it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import sys
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# torchao moved the module after 0.14; the newest home first.
_HOMES = ("torchao.quantization.quantize_.workflows.nf4.nf4_tensor", "torchao.dtypes.nf4tensor")


@functools.cache
def _nf4_module() -> ModuleType:
    """torchao's module with ``to_nf4`` and ``NF4Tensor``."""
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "NF4 weights (QLoRA, quantize_base=True) need torchao: pip install torchao, or set quantize_base=False"
        ) from error
    for home in _HOMES:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(home)
    raise ImportError(
        f"This torchao has NF4 in none of {', '.join(_HOMES)}: install a version that is tested (constraints.txt), "
        "or set quantize_base=False"
    )


def is_nf4(tensor: Any) -> bool:
    """Whether this is a torchao ``NF4Tensor``; never imports torchao."""
    return any(isinstance(tensor, sys.modules[home].NF4Tensor) for home in _HOMES if home in sys.modules)


def to_nf4(weight: Tensor, block_size: int = 64, scaler_block_size: int | None = None, **unknown: Any) -> Tensor:
    """A torchao ``NF4Tensor`` of a weight, with double quantization (QLoRA, https://arxiv.org/abs/2305.14314).

    ``block_size`` weights share a scale, ``scaler_block_size`` scales one of their own; None is 256, or what fits.
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


def quantize_assigned_weight(module: nn.Module, quantization: dict[str, Any]) -> None:
    """Make ``load_state_dict(..., assign=True)`` keep a module's ``weight`` in NF4, whatever is loaded."""

    def hook(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any) -> None:
        loaded: Any = state_dict.get(f"{prefix}weight")
        plain = type(loaded) in (Tensor, nn.Parameter)
        if plain and metadata.get("assign_to_params_buffers") and loaded.shape == module.weight.shape:
            state_dict[f"{prefix}weight"] = to_nf4(loaded.to(module.weight.dtype), **quantization)

    module.register_load_state_dict_pre_hook(hook)


class _LinearNF4(torch.autograd.Function):
    """Saves the 4-bit weight and dequantizes it anew in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return F.linear(x, dequantize(weight, x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ dequantize(ctx.weight, grad.dtype), None


def linear_nf4(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[..., in] -> [..., out]`` with an NF4 weight: without a gradient, dequantized anew in the backward pass."""
    if torch.compiler.is_compiling():
        # Plain operations on the tensors inside: the compiler fuses them, and recomputes them for the backward pass.
        return F.linear(x, dequantize(weight, x.dtype), bias)
    out = _LinearNF4.apply(x, weight)
    return out if bias is None else out + bias


def dequantize(weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An NF4 weight as plain numbers; any other tensor stays what it is, but for the dtype."""
    if is_nf4(weight):
        weight = _plain_values(weight)
    return weight if dtype is None else weight.to(dtype)


def _plain_values(weight: Any) -> Tensor:
    """The values of an ``NF4Tensor``: two 4-bit codes per byte, a scale per block, a scale of scales per group of blocks."""
    with torch.no_grad():
        codes = torch.arange(256, device=weight.quantized_data.device)
        # Every byte's two values, so that one lookup per byte does.
        values = torch.stack([weight.nf4[codes >> 4], weight.nf4[codes & 15]], dim=1)
        factors = weight.quantization_factor.unsqueeze(1)
        scales = weight.quantized_scalers.view(factors.shape[0], -1) / factors
        scales = scales.to(weight.nf4.dtype) + weight.scaler_mean
        blocks = values[weight.quantized_data.int()].view(scales.numel(), -1)
        return (blocks * scales.view(-1, 1)).view(weight.shape)
