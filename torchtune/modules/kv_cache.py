"""Keys and values of the tokens so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KVCache(nn.Module):
    """Keys and values of the tokens so far, in buffers of fixed size.

    Args:
        batch_size (int): most sequences at once.
        max_seq_len (int): most tokens per sequence.
        num_kv_heads (int): key and value heads.
        head_dim (int): size of one head.
        dtype (torch.dtype): of keys and values.
    """

    k_cache: Tensor
    v_cache: Tensor
    cache_pos: Tensor

    def __init__(self, batch_size: int, max_seq_len: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        shape = (batch_size, num_kv_heads, max_seq_len, head_dim)
        self.register_buffer("k_cache", torch.zeros(shape, dtype=dtype), persistent=False)
        self.register_buffer("v_cache", torch.zeros(shape, dtype=dtype), persistent=False)
        self.register_buffer("cache_pos", torch.arange(max_seq_len), persistent=False)
        self.batch_size = batch_size
        # The same number as cache_pos[0], without asking the device; None after a compiled update.
        self._size: int | None = 0

    def reset(self) -> None:
        """Empty the cache."""
        self.k_cache.zero_()
        self.v_cache.zero_()
        self.cache_pos -= self.cache_pos[0].clone()
        self._size = 0

    @property
    def size(self) -> int:
        """Number of tokens in the cache."""
        if self._size is None:
            self._size = int(self.cache_pos[0].item())
        return self._size

    def update(self, k_val: Tensor, v_val: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, ``[b, n_kv, max_seq_len, h]``, with those of the next tokens; zero where nothing is yet.

        Args:
            k_val (Tensor): keys ``[b, n_kv, s, h]``.
            v_val (Tensor): values, the same shape.

        Raises:
            ValueError: for more sequences than ``batch_size``.
            AssertionError: for more tokens than there is room for.
        """
        batch, _, new, _ = k_val.shape
        if batch > self.k_cache.shape[0]:
            raise ValueError(
                f"The KV cache was set up for a batch of {self.k_cache.shape[0]}, but the keys have a batch of {batch}. "
                "Call setup_caches with the larger batch size"
            )
        keys, values = self.k_cache[:batch], self.v_cache[:batch]
        if torch.compiler.is_compiling():
            keys.index_copy_(2, self.cache_pos[:new], k_val)
            values.index_copy_(2, self.cache_pos[:new], v_val)
            self._size = None
        else:
            start, room = self.size, self.k_cache.shape[2]
            if start + new > room:
                raise AssertionError(
                    f"The KV cache has room for {room} tokens and holds {start}; {new} more do not fit. "
                    "Call reset, or setup_caches with a larger max_seq_len"
                )
            keys[:, :, start : start + new] = k_val
            values[:, :, start : start + new] = v_val
            self._size = start + new
        self.cache_pos.add_(new)
        return keys, values
