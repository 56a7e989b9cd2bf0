"""Attention masks of some layers only: sliding windows and chunks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, and_masks, create_block_mask

Mask = Tensor | BlockMask | None


class WindowMask:
    """Lets a token see itself and the ``size - 1`` tokens before it, of those that the model's mask lets it see.

    Tokens count by their place in the sequence, or in the KV cache. It is called by a layer as its ``mask_mod``.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._last: tuple[weakref.ref[Any], int, Tensor | BlockMask] | None = None

    def near(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether the token at ``query`` may see that at ``key``, if it is no later."""
        return query - key < self.size

    def __call__(
        self, mask: Mask = None, bsz: int = 1, seq_len: int = 1, device: torch.device | None = None, **kwargs: Any
    ) -> Mask:
        """Narrow a mask: bool or additive ``[b, s, t]``, a ``BlockMask``, or None for causal.

        The result is None where a causal mask is narrow enough.
        """
        if mask is not None and mask.shape[-1] <= self.size:
            return mask
        if mask is not None:
            return self._narrowed(mask)
        if seq_len <= self.size:
            return None
        place = torch.arange(seq_len, device=device)
        causal = place[:, None] >= place
        return (causal & self.near(place[:, None], place)).expand(bsz, -1, -1)

    def _narrowed(self, mask: Tensor | BlockMask) -> Tensor | BlockMask:
        """The narrowed mask; the layers of a model ask for the same one."""
        if isinstance(mask, Tensor) and (torch.compiler.is_compiling() or mask.is_inference()):
            return self._dense(mask)
        version = mask._version if isinstance(mask, Tensor) else 0
        if self._last is not None and self._last[0]() is mask and self._last[1] == version:
            return self._last[2]
        narrowed = self._dense(mask) if isinstance(mask, Tensor) else self._block(mask)
        self._last = (weakref.ref(mask), version, narrowed)
        return narrowed

    def _dense(self, mask: Tensor) -> Tensor:
        allowed = mask if mask.dtype == torch.bool else ~torch.isneginf(mask)
        keys = torch.arange(mask.shape[-1], device=mask.device)
        # A query's own place is that of the last key it may see.
        own = torch.where(allowed, keys, -1).amax(-1, keepdim=True)
        near = self.near(own, keys)
        return mask & near if mask.dtype == torch.bool else mask.masked_fill(~near, float("-inf"))

    def _block(self, mask: BlockMask) -> BlockMask:
        batch, heads, queries, keys = mask.shape
        return create_block_mask(
            and_masks(mask.mask_mod, lambda b, h, q, kv: self.near(q, kv)),
            batch,
            heads,
            queries,
            keys,
            device=mask.kv_num_blocks.device,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


class ChunkMask(WindowMask):
    """Lets a token see those before it in its own chunk of ``size`` tokens; chunks start at multiples of ``size``."""

    def near(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether both are in one chunk."""
        return query // self.size == key // self.size


def windows(size: int | None, every: int = 1) -> Callable[[int], WindowMask | None] | None:
    """Masks by layer: a window in layers 0, ``every``, 2 * ``every``, ...; None where there is no window at all."""
    if size is None:
        return None
    shared = WindowMask(size)
    return lambda layer: shared if layer % every == 0 else None


def windows_of(size: int | None, layer_types: Sequence[str]) -> Callable[[int], WindowMask | None] | None:
    """Masks by layer: a window in those of type ``sliding_attention``; the other type is ``full_attention``."""
    unknown = sorted(set(layer_types) - {"sliding_attention", "full_attention", "attention"})
    if unknown:
        raise ValueError(f"layer_types has {unknown}; built are 'full_attention' and 'sliding_attention'")
    if size is None or "sliding_attention" not in layer_types:
        return None
    shared = WindowMask(size)
    return lambda layer: shared if layer_types[layer] == "sliding_attention" else None
