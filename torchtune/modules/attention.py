"""Multi-head attention with grouped queries, positional embeddings and a KV cache."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from torchtune.modules.attention_utils import _MaskType, _sdpa_or_flex_attention
from torchtune.modules.kv_cache import KVCache

logger = logging.getLogger(__name__)


class MultiHeadAttention(nn.Module):
    """Attention with grouped queries (https://arxiv.org/abs/2305.13245), self or cross.

    Fewer key and value heads than query heads share them out; one is multi-query attention.

    Args:
        embed_dim (int): size ``d`` of a token's vector.
        num_heads (int): query heads ``n``.
        num_kv_heads (int): key and value heads ``n_kv``; divides ``num_heads``.
        head_dim (int): size ``h`` of one head.
        q_proj (nn.Module): ``d -> n * h``.
        k_proj (nn.Module): ``d -> n_kv * h``.
        v_proj (nn.Module): ``d -> n_kv * h``.
        output_proj (nn.Module): ``n * h -> d``.
        pos_embeddings (nn.Module | None): applied to queries and keys ``[b, s, n, h]``.
        q_norm (nn.Module | None): norm of each query head.
        k_norm (nn.Module | None): norm of each key head.
        kv_cache (KVCache | None): cache of keys and values.
        max_seq_len (int): longest input.
        is_causal (bool): without a mask, let a token see itself and earlier ones only.
        attn_dropout (float): dropout of attention weights in training, in [0, 1].
        norm_before_rope (bool): apply ``q_norm`` and ``k_norm`` before the positional embeddings, as Qwen3's own
            implementation does; False is torchtune's order.
        softmax_scale (float | None): factor of the scores; None is ``head_dim ** -0.5``.
        softcap (float | None): bend scores to stay within this (Gemma 2).
        sinks (bool): a learned score per head that takes part in the softmax and stands for no token (gpt-oss).

    Raises:
        ValueError: if heads or sizes do not divide, ``attn_dropout`` is out of range, or one norm is missing.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        q_proj: nn.Module,
        k_proj: nn.Module,
        v_proj: nn.Module,
        output_proj: nn.Module,
        pos_embeddings: nn.Module | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        kv_cache: KVCache | None = None,
        max_seq_len: int = 4096,
        is_causal: bool = True,
        attn_dropout: float = 0.0,
        norm_before_rope: bool = False,
        softmax_scale: float | None = None,
        softcap: float | None = None,
        sinks: bool = False,
    ) -> None:
        super().__init__()
        if num_heads % num_kv_heads != 0:
            raise ValueError(f"num_heads ({num_heads}) must be divisible by num_kv_heads ({num_kv_heads})")
        if embed_dim % num_heads != 0:
            raise ValueError(f"embed_dim ({embed_dim}) must be divisible by num_heads ({num_heads})")
        if not 0 <= attn_dropout <= 1:
            raise ValueError(f"attn_dropout must be between 0.0 and 1.0, not {attn_dropout}")
        if bool(q_norm) != bool(k_norm):
            raise ValueError("q_norm and k_norm must be set together: one is given, the other is None")
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.embed_dim, self.head_dim = embed_dim, head_dim
        self.attn_dropout, self.max_seq_len, self.is_causal = attn_dropout, max_seq_len, is_causal
        self.norm_before_rope, self.softmax_scale, self.softcap = norm_before_rope, softmax_scale, softcap
        self.kv_cache = kv_cache
        self.q_proj, self.k_proj, self.v_proj, self.output_proj = q_proj, k_proj, v_proj, output_proj
        self.q_norm, self.k_norm = q_norm, k_norm
        self.pos_embeddings = pos_embeddings
        self.sinks = nn.Parameter(torch.zeros(num_heads)) if sinks else None
        self.cache_enabled = kv_cache is not None
        self._attention_call = _sdpa_or_flex_attention()

    def setup_cache(self, batch_size: int, dtype: torch.dtype, max_seq_len: int) -> None:
        """Make a KV cache; without effect, but for a warning, where there is one.

        Args:
            batch_size (int): most sequences at once.
            dtype (torch.dtype): of keys and values.
            max_seq_len (int): most tokens per sequence.
        """
        if self.kv_cache is not None:
            logger.warning("Key value caches are already set up; call reset_cache() to empty them. Skipping.")
            return
        device = torch.get_default_device()
        weight = next(self.parameters(), None)
        if device.type == "cpu" and weight is not None:
            device = weight.device
        with device:
            self.kv_cache = KVCache(batch_size, max_seq_len, self.num_kv_heads, self.head_dim, dtype)
        self.cache_enabled = True

    def reset_cache(self) -> None:
        """Empty the KV cache.

        Raises:
            RuntimeError: if there is none.
        """
        if self.kv_cache is None:
            raise RuntimeError("Key value caches are not setup. Call ``setup_caches()`` first.")
        self.kv_cache.reset()

    def forward(
        self, x: Tensor, y: Tensor | None = None, *, mask: _MaskType | None = None, input_pos: Tensor | None = None
    ) -> Tensor:
        """Attend from ``x`` to ``y``.

        Args:
            x (Tensor): what asks, ``[b, s, d]``.
            y (Tensor | None): what is looked at, ``[b, t, d]``: ``x`` itself, or an encoder's output. None looks at
                what the KV cache holds, and adds nothing to it.
            mask (_MaskType | None): bool ``[b, s, t]`` (True: may see), or added to the scores if float, or a
                ``BlockMask``. With a KV cache ``t`` is its size.
            input_pos (Tensor | None): position of each token of ``x``, ``[b, s]`` or ``[s]``.

        Returns:
            Tensor: ``[b, s, d]``.

        Raises:
            ValueError: if there is neither ``y`` nor a filled KV cache.
        """
        batch, length, _ = x.shape
        q = self._heads(self.q_proj(x), self.q_norm, input_pos)
        if y is None:
            if self.kv_cache is None or not self.cache_enabled:
                raise ValueError("Must provide y input or use kv_cache to enable streaming decoding")
            k, v = self.kv_cache.k_cache[:batch], self.kv_cache.v_cache[:batch]
        else:
            k = self._heads(self.k_proj(y), self.k_norm, input_pos)
            v = self.v_proj(y).view(batch, y.shape[1], -1, self.head_dim).transpose(1, 2)
            if self.kv_cache is not None and self.cache_enabled:
                k, v = self.kv_cache.update(k, v)
        is_causal = self.kv_cache is None and mask is None and self.is_causal
        if self.kv_cache is not None and self.cache_enabled and not torch.compiler.is_compiling():
            k, v, mask = self._filled(k, v, mask)
        options = {"scale": self.softmax_scale, "softcap": self.softcap, "sinks": self.sinks}
        out = self._attention_call(
            q,
            k,
            v,
            mask=mask,
            dropout_p=self.attn_dropout if self.training else 0.0,
            is_causal=is_causal,
            **{name: value for name, value in options.items() if value is not None},
        )
        return self.output_proj(out.transpose(1, 2).reshape(batch, length, -1))

    def _heads(self, projected: Tensor, norm: nn.Module | None, input_pos: Tensor | None) -> Tensor:
        """Split into heads, normalize, and rotate: ``[b, s, n * h] -> [b, n, s, h]``."""
        heads = projected.view(*projected.shape[:2], -1, self.head_dim)
        if norm is not None and self.norm_before_rope:
            heads = norm(heads)
        if self.pos_embeddings is not None:
            heads = self.pos_embeddings(heads, input_pos=input_pos)
        if norm is not None and not self.norm_before_rope:
            heads = norm(heads)
        return heads.transpose(1, 2)

    def _filled(self, k: Tensor, v: Tensor, mask: _MaskType | None) -> tuple[Tensor, Tensor, _MaskType | None]:
        """Only the filled part of the cache, and of a mask over all of it."""
        assert self.kv_cache is not None
        size, room = self.kv_cache.size, k.shape[2]
        if isinstance(mask, BlockMask) or size == room:
            return k, v, mask
        if mask is not None and mask.shape[-1] == room:
            mask = mask[..., :size]
        return k[:, :, :size], v[:, :, :size], mask
