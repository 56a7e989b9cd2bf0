"""Attention masks for packed sequences, and the choice between SDPA and flex attention."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from torchtune.modules._cpu_attention import cpu_attention, is_single_query, serves, single_query_attention
from torchtune.modules._functional import _eager, _plain

_MaskType = Tensor | BlockMask


@functools.cache
def _supports_flex_attention() -> bool:
    """Flex attention has kernels from compute capability 7.5 on."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (7, 5)


def __getattr__(name: str) -> Any:
    # Asked of the device only where someone wants to know: importing must not start CUDA.
    if name == "_SUPPORTS_FLEX_ATTENTION":
        return _supports_flex_attention()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=False)


def _get_document_ids_from_seq_lens(seq_lens: list[Tensor]) -> Tensor:
    """Number of the sequence that each token of a pack belongs to, ``[b, s]``."""
    return torch.stack(
        [torch.repeat_interleave(torch.arange(len(lens), device=lens.device), lens) for lens in seq_lens]
    )


def create_block_causal_mask(seq_lens: list[Tensor]) -> Tensor:
    """A mask ``[b, s, s]``, True where a token (row) sees another: itself and earlier ones of its own sequence.

    Args:
        seq_lens (list[Tensor]): for each pack the lengths of its sequences; all packs have the same total.
    """
    ids = _get_document_ids_from_seq_lens(seq_lens)
    return (ids.unsqueeze(2) == ids.unsqueeze(1)).tril()


def packed_block_causal_mask(seq_lens: list[Tensor]) -> _MaskType:
    """The mask of packed sequences: flex attention's ``BlockMask`` where the GPU can use it, else bool ``[b, s, s]``.

    See :func:`create_block_causal_mask`.
    """
    if not _supports_flex_attention():
        return create_block_causal_mask(seq_lens)
    ids = _get_document_ids_from_seq_lens(seq_lens)
    if torch.utils.data.get_worker_info() is None:  # a worker process can't use CUDA: the mask moves with its batch
        ids = ids.to("cuda")
    batch, length = ids.shape

    def same_document(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (ids[b, q_idx] == ids[b, kv_idx]) & (q_idx >= kv_idx)

    return create_block_mask(same_document, batch, None, length, length, device=str(ids.device))


def causal_mask_flex(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Flex attention's ``mask_mod`` of a causal mask: whether a query sees a key.

    Args:
        b, h, q_idx, kv_idx: place in the batch, head, position of the query and of the key.

    Returns:
        Tensor: True where it does.
    """
    return q_idx >= kv_idx


def kv_offset_mask_flex(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, offset: int | Tensor) -> Tensor:
    """As :func:`causal_mask_flex`, for queries that start ``offset`` tokens into the cache; see :func:`causal_mask_flex`.

    Args:
        offset (int | Tensor): tokens in the cache before the first query.
    """
    return q_idx + offset >= kv_idx


def _soft_capped_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout_p: float, scale: float, cap: float
) -> Tensor:
    """Attention whose scores are bent to stay within ``cap`` (Gemma 2), in plain operations."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    scores = torch.tanh(q @ k.transpose(-2, -1) * (scale / cap)) * cap
    if is_causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return F.dropout(F.softmax(scores.float(), dim=-1).to(v.dtype), dropout_p) @ v


def _with_sinks(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, sinks: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and mask with one more key, seen by all, whose score is the head's sink and whose value is zero.

    The score comes from eight more channels of queries and keys (kernels want multiples of eight), of which one is used.
    """
    batch, heads, length, _ = q.shape
    if mask is None:
        mask = torch.ones(length, k.shape[2], dtype=torch.bool, device=q.device)
        mask = (mask.tril() if is_causal else mask)[None, None]
    own = (sinks.to(q.dtype) / scale).view(1, heads, 1, 1).expand(batch, heads, length, 1)
    sink_key = torch.zeros_like(k[:, :, :1]), k.new_ones(*k.shape[:2], 1, 1)
    k = torch.cat([F.pad(k, (0, 8)), F.pad(torch.cat(sink_key, dim=-1), (0, 7))], dim=2)
    v = F.pad(v, (0, 0, 0, 1))
    return torch.cat([q, F.pad(own, (0, 7))], dim=-1), k, v, F.pad(mask, (0, 1), value=mask.dtype == torch.bool)


def _flex(
    q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, scale: float | None, cap: float | None, sinks: Tensor | None
) -> Tensor:
    def bend(score: Tensor, *_: Tensor) -> Tensor:
        assert cap is not None
        return torch.tanh(score / cap) * cap

    call: Any = flex_attention if torch.compiler.is_compiling() or not q.is_cuda else _compiled_flex_attention()
    out = call(
        q,
        k,
        v,
        block_mask=mask,
        scale=scale,
        score_mod=bend if cap is not None else None,
        enable_gqa=q.shape[1] != k.shape[1],
        return_lse=sinks is not None,
    )
    if sinks is None:
        return out
    # A sink adds exp(sink) to each row's sum, and nothing else.
    out, log_sum = out
    return out * torch.sigmoid(log_sum - sinks.to(log_sum.dtype).view(1, -1, 1)).unsqueeze(-1).to(out.dtype)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: _MaskType | None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention over ``q`` ``[b, n, s, h]`` and ``k``, ``v`` ``[b, n_kv, t, h]``; gives ``[b, n, s, h]``."""
    if isinstance(mask, BlockMask):
        if dropout_p > 0.0:
            raise ValueError("Flex attention doesn't support dropout: set attn_dropout=0 or use an unpacked dataset")
        return _flex(q, k, v, mask, scale, softcap, sinks)
    if mask is not None and mask.dim() == 3:
        mask = mask.unsqueeze(1)
    if sinks is not None:
        scale = scale or q.shape[-1] ** -0.5
        q, k, v, mask = _with_sinks(q, k, v, mask, is_causal, sinks, scale)
        is_causal = False
    if softcap is not None:
        return _soft_capped_attention(q, k, v, mask, is_causal, dropout_p, scale or q.shape[-1] ** -0.5, softcap)
    shared_heads = q.shape[1] != k.shape[1]
    if shared_heads and mask is not None and q.is_cuda:
        # Of the CUDA kernels that take a mask, only the slow one takes fewer key heads than query heads.
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        shared_heads = False
    if _plain(q, k, v, mask) and serves(q, k, v, mask, dropout_p):
        return cpu_attention(q, k, v, mask, is_causal, scale or q.shape[-1] ** -0.5)
    if _eager(q, k, v, mask) and not is_causal and is_single_query(q, k, v, mask, dropout_p):
        return single_query_attention(q, k, v, mask, scale or q.shape[-1] ** -0.5)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale, enable_gqa=shared_heads
    )


def _sdpa_or_flex_attention() -> Callable[..., Tensor]:
    """The attention function: flex attention for a ``BlockMask``, else SDPA."""
    return _attention
