"""Transformer layers and the decoder made of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules.attention import MultiHeadAttention
from torchtune.modules.attention_utils import _MaskType


class _CachedLayer(nn.Module):
    """What both kinds of layers have in common: sublayers and a KV cache in their attention."""

    attn: MultiHeadAttention
    _looks_at_encoder = False

    def setup_caches(
        self, batch_size: int, dtype: torch.dtype, *, encoder_max_seq_len: int, decoder_max_seq_len: int
    ) -> None:
        """Make the KV cache.

        Args:
            batch_size (int): most sequences at once.
            dtype (torch.dtype): of keys and values.
            encoder_max_seq_len (int): most encoder outputs per sequence, for cross-attention.
            decoder_max_seq_len (int): most tokens per sequence, for self-attention.
        """
        self.attn.setup_cache(batch_size, dtype, encoder_max_seq_len if self._looks_at_encoder else decoder_max_seq_len)

    def caches_are_setup(self) -> bool:
        """Whether there is a KV cache."""
        return self.attn.kv_cache is not None

    def caches_are_enabled(self) -> bool:
        """Whether the KV cache is used; see :func:`~torchtune.modules.disable_kv_cache`."""
        return self.attn.cache_enabled

    def reset_cache(self) -> None:
        """Empty the KV cache."""
        self.attn.reset_cache()


class TransformerSelfAttentionLayer(_CachedLayer):
    """Self-attention and feed-forward, each with a norm before and a residual around it.

    Args:
        attn (MultiHeadAttention): self-attention.
        mlp (nn.Module): feed-forward layer.
        sa_norm (nn.Module | None): before attention.
        mlp_norm (nn.Module | None): before the feed-forward layer.
        sa_scale (nn.Module | None): after attention, before the residual is added.
        mlp_scale (nn.Module | None): after the feed-forward layer, before the residual is added.
        mask_mod (Callable | None): makes this layer's mask: called with ``mask``, ``bsz``, ``seq_len`` and ``device``.
    """

    def __init__(
        self,
        attn: MultiHeadAttention,
        mlp: nn.Module,
        *,
        sa_norm: nn.Module | None = None,
        mlp_norm: nn.Module | None = None,
        sa_scale: nn.Module | None = None,
        mlp_scale: nn.Module | None = None,
        mask_mod: Callable[..., _MaskType | None] | None = None,
    ) -> None:
        super().__init__()
        self.attn = attn
        self.mlp = mlp
        self.sa_norm = sa_norm or nn.Identity()
        self.mlp_norm = mlp_norm or nn.Identity()
        self.sa_scale = sa_scale or nn.Identity()
        self.mlp_scale = mlp_scale or nn.Identity()
        self.mask_mod = mask_mod

    def forward(
        self, x: Tensor, *, mask: _MaskType | None = None, input_pos: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Apply the layer: ``[b, s, d] -> [b, s, d]``; what other layers of a model need is ignored.

        Args:
            mask (_MaskType | None): as in :class:`~torchtune.modules.MultiHeadAttention`.
            input_pos (Tensor | None): positions, ``[b, s]`` or ``[s]``.
        """
        normed = self.sa_norm(x)
        if self.mask_mod is not None:
            mask = self.mask_mod(mask=mask, bsz=x.shape[0], seq_len=x.shape[1], device=x.device)
        h = self.sa_scale(self.attn(normed, normed, mask=mask, input_pos=input_pos)) + x
        return h + self.mlp_scale(self.mlp(self.mlp_norm(h)))


class TransformerCrossAttentionLayer(_CachedLayer):
    """Cross-attention to an encoder's output, and feed-forward.

    Tokens that may see nothing of the encoder's output pass through unchanged.

    Args:
        attn (MultiHeadAttention): cross-attention; without positional embeddings.
        mlp (nn.Module): feed-forward layer.
        ca_norm (nn.Module | None): before attention.
        mlp_norm (nn.Module | None): before the feed-forward layer.
        ca_scale (nn.Module | None): after attention, before the residual is added.
        mlp_scale (nn.Module | None): after the feed-forward layer, before the residual is added.

    Raises:
        AssertionError: if ``attn`` has positional embeddings.
    """

    _looks_at_encoder = True

    def __init__(
        self,
        attn: MultiHeadAttention,
        mlp: nn.Module,
        *,
        ca_norm: nn.Module | None = None,
        mlp_norm: nn.Module | None = None,
        ca_scale: nn.Module | None = None,
        mlp_scale: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if attn.pos_embeddings is not None:
            raise AssertionError(
                "Cross attention has no common positions for text and encoder output: pass attn without pos_embeddings"
            )
        self.attn = attn
        self.mlp = mlp
        self.ca_norm = ca_norm or nn.Identity()
        self.mlp_norm = mlp_norm or nn.Identity()
        self.ca_scale = ca_scale or nn.Identity()
        self.mlp_scale = mlp_scale or nn.Identity()

    @staticmethod
    def _blind_tokens(mask: Tensor | None) -> Tensor | None:
        """Tokens that see nothing, ``[b, s, 1]``."""
        if mask is None:
            return None
        hidden = ~mask if mask.dtype == torch.bool else torch.isneginf(mask)
        return hidden.all(dim=-1, keepdim=True)

    def forward(
        self, x: Tensor, *, encoder_input: Tensor | None = None, encoder_mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Apply the layer: ``[b, s, d] -> [b, s, d]``; what other layers of a model need is ignored.

        Args:
            encoder_input (Tensor | None): the encoder's output ``[b, t, d]``; None uses what the KV cache holds, and without
                one the layer does nothing.
            encoder_mask (Tensor | None): ``[b, s, t]``, True where a token may see an output.
        """
        empty_cache = not self.caches_are_enabled() or self.attn.kv_cache is None or self.attn.kv_cache.size == 0
        if encoder_input is None and empty_cache:
            return x
        blind = self._blind_tokens(encoder_mask)
        if encoder_mask is not None and blind is not None:
            # A softmax over nothing is NaN: let these tokens see all, and drop the result.
            seen = blind if encoder_mask.dtype == torch.bool else None
            encoder_mask = encoder_mask | seen if seen is not None else encoder_mask.masked_fill(blind, 0.0)
        attn_out = self.attn(self.ca_norm(x), encoder_input, mask=encoder_mask)
        if blind is not None:
            attn_out = attn_out.masked_fill(blind, 0.0)
        h = self.ca_scale(attn_out) + x
        mlp_out = self.mlp(self.mlp_norm(h))
        if blind is not None:
            mlp_out = mlp_out.masked_fill(blind, 0.0)
        return h + self.mlp_scale(mlp_out)


def _as_layers(layers: nn.Module | list[nn.Module] | nn.ModuleList, num_layers: int | None) -> nn.ModuleList:
    """The layers as a ``ModuleList``; one layer is copied ``num_layers`` times."""
    if isinstance(layers, nn.ModuleList):
        return layers
    if isinstance(layers, list):
        return nn.ModuleList(layers)
    if not isinstance(layers, nn.Module):
        raise AssertionError(f"layers must be a module or a list of modules, not {type(layers).__name__}")
    if num_layers is None:
        raise AssertionError("If layers is one module, num_layers must say how many copies of it the model has")
    return nn.ModuleList(copy.deepcopy(layers) for _ in range(num_layers))


class TransformerDecoder(nn.Module):
    """Token embedding, layers, norm and output projection.

    Args:
        tok_embeddings (nn.Embedding): ``[b, s]`` token ids to ``[b, s, d]``.
        layers (nn.Module | list[nn.Module] | nn.ModuleList): the layers, or one to be copied.
        max_seq_len (int): longest input.
        num_heads (int): query heads.
        head_dim (int): size of one head.
        norm (nn.Module): after the last layer.
        output (nn.Linear | Callable[[Tensor], Tensor]): ``[b, s, d]`` to logits ``[b, s, v]``.
        num_layers (int | None): number of copies where ``layers`` is one layer.
        output_hidden_states (list[int] | None): layers whose input is returned too; the number of layers stands for
            the last layer's output.

    Raises:
        AssertionError: if ``layers`` is one module and ``num_layers`` is None.
    """

    def __init__(
        self,
        *,
        tok_embeddings: nn.Embedding,
        layers: nn.Module | list[nn.Module] | nn.ModuleList,
        max_seq_len: int,
        num_heads: int,
        head_dim: int,
        norm: nn.Module,
        output: nn.Linear | Callable[[Tensor], Tensor],
        num_layers: int | None = None,
        output_hidden_states: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.tok_embeddings = tok_embeddings
        self.layers = _as_layers(layers, num_layers)
        self.norm = norm
        self.output = output
        self.output_hidden_states = output_hidden_states or []
        self.max_seq_len, self.num_heads, self.head_dim = max_seq_len, num_heads, head_dim
        self.causal_mask: Tensor | None = None
        self.num_output_chunks = 0
        self.skip_output_layer = False
        self.decoder_max_cache_seq_len: int | None = None
        self.encoder_max_cache_seq_len: int | None = None

    def set_num_output_chunks(self, num_output_chunks: int) -> None:
        """Return logits in pieces along the sequence, for losses that upcast one piece at a time.

        Args:
            num_output_chunks (int): number of pieces; 0 for one whole tensor.
        """
        self.num_output_chunks = num_output_chunks

    def setup_caches(
        self,
        batch_size: int,
        dtype: torch.dtype,
        *,
        encoder_max_seq_len: int | None = None,
        decoder_max_seq_len: int | None = None,
    ) -> None:
        """Make the KV caches of all layers. From then on ``forward`` needs ``mask`` and ``input_pos``.

        Args:
            batch_size (int): most sequences at once.
            dtype (torch.dtype): of keys and values.
            encoder_max_seq_len (int | None): most encoder outputs per sequence; None is ``max_seq_len``.
            decoder_max_seq_len (int | None): most tokens per sequence; None is ``max_seq_len``.
        """
        modules = list(self.modules())
        if any(isinstance(m, TransformerCrossAttentionLayer) for m in modules):
            self.encoder_max_cache_seq_len = encoder_max_seq_len or self.max_seq_len
        if any(isinstance(m, TransformerSelfAttentionLayer) for m in modules):
            self.decoder_max_cache_seq_len = decoder_max_seq_len or self.max_seq_len
        for layer in self.layers:
            layer.setup_caches(  # type: ignore[operator]
                batch_size,
                dtype,
                encoder_max_seq_len=self.encoder_max_cache_seq_len,
                decoder_max_seq_len=self.decoder_max_cache_seq_len,
            )

    def caches_are_setup(self) -> bool:
        """Whether there are KV caches."""
        return self.layers[0].caches_are_setup()  # type: ignore[operator]

    def caches_are_enabled(self) -> bool:
        """Whether the KV caches are used; see :func:`~torchtune.modules.disable_kv_cache`."""
        return self.layers[0].caches_are_enabled()  # type: ignore[operator]

    def reset_caches(self) -> None:
        """Empty the KV caches.

        Raises:
            RuntimeError: if there are none.
        """
        if not self.caches_are_setup():
            raise RuntimeError("Key value caches are not setup. Call model.setup_caches first.")
        for layer in self.layers:
            layer.reset_cache()  # type: ignore[operator]

    def chunked_output(self, last_hidden_state: Tensor) -> list[Tensor]:
        """The logits in ``num_output_chunks`` pieces ``[b, s / num_output_chunks, v]``, in the model's dtype.

        Args:
            last_hidden_state (Tensor): ``[b, s, d]``, after the norm.
        """
        return [self.output(chunk) for chunk in last_hidden_state.tensor_split(self.num_output_chunks, dim=1)]

    def _validate_inputs(
        self,
        seq_len: int,
        mask: _MaskType | None,
        encoder_input: Tensor | None,
        encoder_mask: Tensor | None,
        input_pos: Tensor | None,
    ) -> None:
        if seq_len > self.max_seq_len:
            raise ValueError(
                f"seq_len ({seq_len}) of input tensor should be smaller than max_seq_len ({self.max_seq_len}); "
                "cut the input (tokenizer.max_seq_len) or build the model with a larger max_seq_len"
            )
        if not self.caches_are_enabled():
            return
        if mask is None:
            raise ValueError(
                "KV-caches for self-attention layers are setup for inference mode, causal masks must be provided! "
                "Use the `mask` arg to provide a causal mask."
            )
        if encoder_input is not None and encoder_mask is None:
            raise ValueError(
                "KV-caches for cross-attention/fusion layers are setup for inference mode and you seem to be using "
                "encoder_input, causal masks must be provided! Use the `encoder_mask` arg to provide a causal mask."
            )
        if input_pos is None:
            raise ValueError("KV-caches are setup for inference mode, input positions must be provided!")

    def forward(
        self,
        tokens: Tensor | None,
        *,
        mask: _MaskType | None = None,
        encoder_input: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        input_pos: Tensor | None = None,
        input_embeds: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Compute logits.

        Args:
            tokens (Tensor | None): token ids ``[b, s]``; None where ``input_embeds`` is given.
            mask (_MaskType | None): which tokens each one sees: bool ``[b, s, s]``, or ``[b, s, m]`` with KV caches of
                ``m`` tokens, or a ``BlockMask``. None is causal.
            encoder_input (Tensor | None): an encoder's output ``[b, t, d_e]`` for cross-attention layers.
            encoder_mask (Tensor | None): ``[b, s, t]``, which outputs each token sees.
            input_pos (Tensor | None): position of each token, ``[b, s]`` or ``[s]``; None is 0, 1, 2, ...
            input_embeds (Tensor | None): ``[b, s, d]`` in place of embedded ``tokens``.

        Returns:
            Tensor | list[Tensor]: logits ``[b, s, v]`` in fp32; the hidden state ``[b, s, d]`` if
            ``skip_output_layer``; a list of pieces with output chunks; and after the hidden states
            ``output_hidden_states``, as a list, where asked for.

        Raises:
            ValueError: for an input longer than ``max_seq_len``, or no mask or positions with KV caches.
        """
        given = tokens if tokens is not None else input_embeds
        if given is None:
            raise ValueError("Pass `tokens` or `input_embeds`: both are None")
        self._validate_inputs(given.shape[1], mask, encoder_input, encoder_mask, input_pos)
        h = self.tok_embeddings(tokens) if input_embeds is None else input_embeds
        hidden: list[Any] = []
        for index, layer in enumerate(self.layers):
            if index in self.output_hidden_states:
                hidden.append(h)
            h = layer(h, mask=mask, encoder_input=encoder_input, encoder_mask=encoder_mask, input_pos=input_pos)
        if len(self.layers) in self.output_hidden_states:
            hidden.append(h)
        output = self.unembed(h)
        return [*hidden, output] if hidden else output  # type: ignore[list-item]

    def unembed(self, h: Tensor) -> Tensor | list[Tensor]:
        """What ``forward`` returns, from the last layer's output.

        Args:
            h (Tensor): ``[b, s, d]``.
        """
        h = self.norm(h)
        if self.skip_output_layer:
            return h
        if self.num_output_chunks > 0:
            return self.chunked_output(h)
        return self.output(h).float()
