"""Autograd functions that save less than the plain operations: norm, rotation, gated activation.

Each has the plain form too, used under ``torch.compile`` (which fuses it) and for tensor subclasses such as DTensor.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _plain(*tensors: Tensor | None) -> bool:
    """Whether these are plain tensors, and not DTensors, say."""
    return all(t is None or type(t) in (Tensor, nn.Parameter) for t in tensors)


def _eager(*tensors: Tensor | None) -> bool:
    """Whether these are plain tensors outside of ``torch.compile``."""
    return not torch.compiler.is_compiling() and _plain(*tensors)


def _normalized(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The normalized rows, and what each was multiplied by."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    out = x * inverse if x.dtype == torch.float32 else x.float().mul_(inverse)
    if weight is not None:
        out.mul_(weight)
    return out.to(x.dtype), inverse


class _RMSNorm(torch.autograd.Function):
    """Saves the input as it came and one number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        out, inverse = _normalized(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        dim = x.shape[-1]
        wide, grad_wide, inverse = x.float().reshape(-1, dim), grad.float().reshape(-1, dim), inverse.reshape(-1, 1)
        scale = wide.new_ones(dim) if weight is None else weight.float()
        product = grad_wide * wide  # the gradients of weight and input are both sums of it
        grad_x = grad_weight = None
        if weight is not None and ctx.needs_input_grad[1]:
            grad_weight = torch.mv(product.t(), inverse.squeeze(1)).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            along = torch.mv(product, scale).unsqueeze(1).mul_(inverse.square() / dim)
            grad_x = torch.mul(grad_wide, scale, out=product).addcmul_(wide, along, value=-1).mul_(inverse)
            grad_x = grad_x.to(x.dtype).view(x.shape)
        return grad_x, grad_weight, None


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Divide each row by its root mean square, in fp32, and multiply by ``weight [d]``: ``[..., d] -> [..., d]``.

    The dtype is that of ``x`` (Zhang and Sennrich, 2019, https://arxiv.org/abs/1910.07467).
    """
    if _eager(x, weight) and not x.is_cuda:
        return _RMSNorm.apply(x, weight, eps) if torch.is_grad_enabled() else _normalized(x, weight, eps)[0]
    if x.is_cuda and (weight is None or weight.dtype == x.dtype):
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    wide_weight = None if weight is None else weight.float()
    return F.rms_norm(x.float(), (x.shape[-1],), wide_weight, eps).to(x.dtype)


class _RotatePairs(torch.autograd.Function):
    """Rotation of neighbouring channels as one complex product; saves the angles only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Tensor) -> Tensor:
        ctx.save_for_backward(angles)
        return _complex_product(x, torch.view_as_complex(angles))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (angles,) = ctx.saved_tensors
        return _complex_product(grad, torch.view_as_complex(angles).conj()), None


def _complex_product(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply neighbouring channels of ``x``, taken as complex numbers, by ``factor``."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * factor).flatten(-2).to(x.dtype)


def rotate_pairs(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate channels (0, 1), (2, 3), ... of each head of ``x [b, s, n, d]``, in fp32.

    ``angles`` are cosines and sines, ``[b or 1, s, 1, d / 2, 2]``, fp32.
    """
    if _eager(x, angles) and angles.dtype == torch.float32:
        if torch.is_grad_enabled():
            return _RotatePairs.apply(x, angles)
        return _complex_product(x, torch.view_as_complex(angles))
    cos, sin = angles.unbind(-1)
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).to(x.dtype)


class _RotateHalves(torch.autograd.Function):
    """Rotation of channels half a head apart; saves the angles only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate_halves(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate_halves(grad, cos, sin, -1), None, None


def _rotate_halves(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Rotate by the angle (sign 1) or back (sign -1)."""
    half = x.shape[-1] // 2
    wide = x.float()
    out = wide * cos
    out[..., :half].addcmul_(wide[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(wide[..., :half], sin[..., half:], value=sign)
    return out.to(x.dtype)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channels (0, d/2), (1, d/2 + 1), ... of each head of ``x [b, s, n, d]``, in fp32.

    ``cos`` and ``sin`` are ``[b or 1, s, 1, d]``, the second half equal to the first.
    """
    if _eager(x, cos, sin):
        return _RotateHalves.apply(x, cos, sin) if torch.is_grad_enabled() else _rotate_halves(x, cos, sin, 1)
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class _SwiGLU(torch.autograd.Function):
    """``silu(gate) * up``; computes ``silu(gate)`` again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(grad) if ctx.needs_input_grad[1] else None
        grad_gate = None
        if ctx.needs_input_grad[0]:
            grad_gate = grad * up
            torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad_gate, grad_up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``: ``[..., h]`` (Shazeer, 2020, https://arxiv.org/abs/2002.05202)."""
    if _eager(gate, up) and gate.dtype == up.dtype:
        return _SwiGLU.apply(gate, up) if torch.is_grad_enabled() else F.silu(gate).mul_(up)
    return F.silu(gate) * up
