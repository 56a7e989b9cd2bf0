"""Context parallel: each rank holds a part of every sequence, and attention reaches over all parts.

Sequences are cut into twice as many chunks as there are ranks. Rank ``r`` of ``n`` holds chunks ``r`` and ``2n - 1 - r``,
so that under a causal mask all ranks have the same work.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

from torchtune.modules import MultiHeadAttention, TransformerDecoder
from torchtune.modules.attention_utils import _attention, _MaskType

# New names from torch 2.13 on.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Gather(torch.autograd.Function):
    """``[...]`` of each rank to ``[n, ...]`` on all of them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        out = x.new_empty(group.size() * x.numel())
        _all_gather(out, x.contiguous().view(-1), group=group)
        return out.view(group.size(), *x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        mine = grad.new_empty(grad[0].numel())
        _reduce_scatter(mine, grad.contiguous().view(-1), group=ctx.group)
        return mine.view(grad.shape[1:]), None


class _Exchange(torch.autograd.Function):
    """Row ``i`` of ``[n, ...]`` goes to rank ``i``; what comes back is in the order of the ranks."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dist.all_to_all_single(out, x.contiguous(), group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Exchange.apply(grad, ctx.group), None


def _in_order(parts: torch.Tensor) -> torch.Tensor:
    """The ranks' parts ``[n, b, heads, s / n, h]`` as sequences ``[b, heads, s, h]``."""
    first, second = parts.unflatten(3, (2, -1)).unbind(3)
    return torch.cat([first, second.flip(0)]).movedim(0, 2).flatten(2, 3)


def _in_parts(x: torch.Tensor, ranks: int) -> torch.Tensor:
    """What :func:`_in_order` makes, taken apart again."""
    chunks = x.unflatten(2, (2 * ranks, -1)).movedim(2, 0)
    return torch.stack([chunks[:ranks], chunks[ranks:].flip(0)], dim=3).flatten(3, 4)


def _exchange_heads(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, group: dist.ProcessGroup, **options: Any
) -> torch.Tensor:
    """Attention where each rank takes some of the heads over whole sequences (https://arxiv.org/abs/2309.14509)."""
    ranks = group.size()
    if q.shape[1] % ranks:
        raise ValueError(
            f"context_parallel_rotate_method: alltoall shares {q.shape[1]} heads out to {ranks} ranks, which doesn't go "
            "evenly; use allgather, or another context_parallel_dim"
        )
    if k.shape[1] % ranks:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    q, k, v = (_in_order(_Exchange.apply(t.unflatten(1, (ranks, -1)).movedim(1, 0), group)) for t in (q, k, v))
    out = _Exchange.apply(_in_parts(_attention(q, k, v, **options), ranks), group)
    return out.movedim(0, 1).flatten(1, 2)


def _gather_keys(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    group: dist.ProcessGroup,
    mask: _MaskType | None,
    is_causal: bool,
    **options: Any,
) -> torch.Tensor:
    """Attention of a rank's own queries to the keys of all ranks."""
    if isinstance(mask, BlockMask):
        raise ValueError(
            "context_parallel_rotate_method: allgather can't cut flex attention's masks of packed sequences; set alltoall"
        )
    k, v = _in_order(_Gather.apply(k, group)), _in_order(_Gather.apply(v, group))
    from torch.nn.attention.bias import causal_lower_right

    ranks, rank, length = group.size(), dist.get_rank(group), q.shape[2] // 2
    parts = []
    for chunk, queries in zip((rank, 2 * ranks - 1 - rank), q.split(length, dim=2), strict=True):
        start, end = chunk * length, (chunk + 1) * length
        seen = end if mask is None and is_causal else k.shape[2]
        rows: Any = None
        if mask is not None:
            rows = mask[..., start:end, :]
        elif is_causal and q.is_cuda and options.get("softcap") is None:
            # Its module loads the compiler, which sets an environment variable.

            rows = causal_lower_right(length, seen)
        elif is_causal:
            rows = torch.ones(length, seen, dtype=torch.bool, device=q.device).tril(start)
        parts.append(_attention(queries, k[:, :, :seen], v[:, :, :seen], mask=rows, **options))
    return torch.cat(parts, dim=2)


_METHODS = {"allgather": _gather_keys, "alltoall": _exchange_heads}


def apply_context_parallel(model: nn.Module, group: dist.ProcessGroup, rotate_method: str = "allgather") -> None:
    """Let a model's attention reach over the parts of sequences that other ranks hold, in place."""
    if rotate_method not in _METHODS:
        raise ValueError(f"context_parallel_rotate_method is {rotate_method!r}; expected one of {sorted(_METHODS)}")
    if not isinstance(model, TransformerDecoder):
        raise ValueError(
            f"context_parallel_dim > 1 works for plain text decoders; the model is a {type(model).__name__}. Set it to 1"
        )
    for name, layer in model.named_modules():
        if getattr(layer, "mask_mod", None) is not None:
            raise ValueError(
                f"context_parallel_dim > 1: {name} makes a mask of its own (sliding window or chunks), which needs whole "
                "sequences. Set it to 1"
            )
        if isinstance(layer, MultiHeadAttention):
            layer._attention_call = partial(_METHODS[rotate_method], group=group)


def own_part(batch: dict[str, Any], group: dist.ProcessGroup) -> dict[str, Any]:
    """A batch with this rank's part of each sequence ``[b, s / n]``, ``input_pos`` included; masks stay whole."""
    ranks, rank = group.size(), dist.get_rank(group)
    tokens = batch["tokens"]
    if batch.get("input_pos") is None:
        batch = {**batch, "input_pos": torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)}
    cut: dict[str, Any] = {}
    for key in ("tokens", "labels", "input_pos", "loss_weights"):
        if key in batch:
            chunks = batch[key].chunk(2 * ranks, dim=1)
            cut[key] = torch.cat([chunks[rank], chunks[2 * ranks - 1 - rank]], dim=1)
    return {**batch, **cut}
