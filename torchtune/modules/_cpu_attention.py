"""Attention on the CPU where torch's flash kernel is slow: its backward pass, and single queries of narrow types."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Queries of a block: wide enough for the matrix products, narrow enough to leave out most of what causal masks hide.
_BLOCK = {torch.bfloat16: 128, torch.float32: 64}
#: Below this many queries torch's own backward pass is as fast in fp32.
_SHORT_FP32 = 256
#: Asked once: ``torch.compile`` can't look into it.
_HAS_BF16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def serves(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> bool:
    """Whether :func:`cpu_attention` computes this, and is faster than torch's own; not where no gradient is wanted."""
    if q.device.type != "cpu" or not torch.is_grad_enabled() or dropout_p or q.dtype not in _BLOCK:
        return False
    if not (q.requires_grad and k.requires_grad and v.requires_grad) or torch.is_autocast_enabled("cpu"):
        return False
    if not q.dtype == k.dtype == v.dtype or q.shape[-1] != v.shape[-1] or 0 in q.shape or 0 in k.shape:
        return False
    if mask is not None and (mask.dtype != torch.bool or mask.dim() != 4 or mask.shape[1] != 1):
        return False
    if q.dtype == torch.float32:
        return q.shape[2] >= _SHORT_FP32
    return _HAS_BF16


def cpu_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> Tensor:
    """Attention whose backward pass takes half the time of the flash kernel's or less: ``[b, n, s, h]``.

    Keys and values are ``[b, n_kv, t, h]``; ``mask`` is bool ``[b or 1, 1, s, t]``, True where a query sees a key.
    """
    return _forward(q, k, v, mask, is_causal, scale)[0]


def is_single_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> bool:
    """Whether :func:`single_query_attention` computes this: a step of generation in bf16 or fp16, without gradient."""
    if q.device.type != "cpu" or q.shape[2] != 1 or torch.is_grad_enabled() or dropout_p:
        return False
    narrow = q.dtype in (torch.bfloat16, torch.float16) and q.dtype == k.dtype == v.dtype
    return narrow and (mask is None or (mask.dtype == torch.bool and mask.dim() == 4 and mask.shape[1] == 1))


def single_query_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of one query per head in fp32, three to nine times as fast as the flash kernel in bf16: ``[b, n, 1, h]``.

    Shapes are those of :func:`cpu_attention`. The result is zero where a query sees nothing.
    """
    batch, heads, _, dim = q.shape
    grouped = q.reshape(batch, k.shape[1], -1, dim).float().mul_(scale)
    scores = torch.matmul(grouped, k.float().transpose(-1, -2))
    if mask is not None:
        scores.masked_fill_(~mask, torch.finfo(torch.float32).min)
    weights = scores.softmax(-1)
    if mask is not None:
        weights.masked_fill_(~mask, 0.0)
    return torch.matmul(weights, v.float()).to(q.dtype).view(batch, heads, 1, -1)


@torch.library.custom_op("torchtune::cpu_attention", mutates_args=(), device_types="cpu")
def _forward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Output, and the logarithm of each row's sum; an operator of torch, so that ``torch.compile`` leaves it whole."""
    added = None if mask is None else q.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(q, k, v, 0.0, is_causal, attn_mask=added, scale=scale)


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal, scale=scale)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """What the flash kernel saves: inputs, output, and the logarithm of each row's sum."""
    q, k, v, mask, ctx.is_causal, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, mask)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients(grad, *ctx.saved_tensors, ctx.is_causal, ctx.scale), None, None, None


_forward.register_autograd(_backward, setup_context=_save)


def _extended(x: Tensor, subtract: Tensor | None = None) -> Tensor:
    """``x`` ``[n, s, h]`` with two more channels: ones, or ``-subtract`` as the sum of two numbers.

    A product of both kinds has ``subtract`` taken off in the accumulator, before it is rounded to bf16: what is left is small
    where it matters, so that scores keep the precision that the flash kernel gives them.
    """
    out = x.new_ones(*x.shape[:2], x.shape[2] + 2)
    out[..., :-2] = x
    if subtract is not None:
        high = subtract.to(x.dtype)
        out[..., -2] = high.neg()
        out[..., -1] = high - subtract
    return out


def _seen(mask: Tensor | None, rows: slice, is_causal: bool, keys: int) -> int:
    """How many keys, from the first, a block of queries may see."""
    if mask is None:
        return min(keys, rows.stop) if is_causal else keys
    columns = mask[:, 0, rows].flatten(0, 1).any(0).nonzero()
    return int(columns[-1]) + 1 if len(columns) else 1


@torch.library.custom_op("torchtune::cpu_attention_backward", mutates_args=(), device_types="cpu")
def _gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, mask: Tensor | None,
    is_causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys and values: weights are computed again, a block of queries of all heads at a time."""
    batch, heads, length, dim = q.shape
    count, size = batch * k.shape[1], _BLOCK[q.dtype]
    keys, values = (_extended(x.reshape(count, -1, dim)) for x in (k, v))
    if mask is not None:
        log_sum = log_sum.nan_to_num(nan=0.0, neginf=0.0)  # rows that see nothing
    # What the softmax takes off the gradients of a row of weights.
    along = (grad.float() * out).sum(-1)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(keys[..., :dim]), torch.zeros_like(keys[..., :dim])
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        seen = _seen(mask, rows, is_causal, k.shape[2])

        def block(x: Tensor, rows: slice = rows) -> Tensor:
            return x[:, :, rows].reshape(count, -1, *x.shape[3:])  # heads of a group one below the other

        q_block, grad_block = block(q), block(grad)
        weights = torch.bmm(_extended(q_block, block(log_sum) / scale), keys[:, :seen].transpose(1, 2))
        weights.mul_(scale).exp_()
        by_head = weights.view(batch, heads, -1, seen)
        if mask is not None:
            by_head.masked_fill_(~mask[:, :, rows, :seen], 0.0)
        if is_causal:
            by_head[..., start:].tril_()
        grad_v[:, :seen].baddbmm_(weights.transpose(1, 2), grad_block)
        weights.mul_(torch.bmm(_extended(grad_block, block(along)), values[:, :seen].transpose(1, 2)))
        grad_q[:, :, rows] = torch.bmm(weights, keys[:, :seen, :dim]).mul_(scale).view(batch, heads, -1, dim)
        grad_k[:, :seen].baddbmm_(weights.transpose(1, 2), q_block, alpha=scale)
    return grad_q, grad_k.view(k.shape), grad_v.view(v.shape)


@_gradients.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, mask: Tensor | None,
    is_causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(q), k.new_empty(k.shape), v.new_empty(v.shape)
