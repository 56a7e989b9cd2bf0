"""One body for every dense decoder: a row of sizes and options becomes a ``TransformerDecoder``.

A family says what it is by a ``DecoderSpec``; an ``Adapter`` decides, by name, which linear layers become LoRA, DoRA or
NF4 layers. There is no second builder for adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from torchtune.models._rope import ScaledRotaryPositionalEmbeddings
from torchtune.modules import (
    FeedForward,
    FrozenNF4Linear,
    MultiHeadAttention,
    RMSNorm,
    TiedLinear,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)
from torchtune.modules.common_utils import reparametrize_as_dtype_state_dict_post_hook
from torchtune.modules.peft import DoRALinear, LoRALinear

LORA_ATTN_MODULES = Literal["q_proj", "k_proj", "v_proj", "output_proj"]
_ATTN_NAMES: tuple[str, ...] = get_args(LORA_ATTN_MODULES)
_MLP_NAMES = ("w1", "w2", "w3")


def scale_hidden_dim_for_mlp(dim: int, multiple_of: int = 256) -> int:
    """The hidden size of a SwiGLU layer whose size is not given: 2/3 of ``4 * dim``, rounded up.

    Args:
        dim (int): embedding size.
        multiple_of (int): the result is a multiple of this.

    Source: https://arxiv.org/abs/2002.05202 (GLU Variants Improve Transformer); rounding as in Llama
    """
    hidden = int(2 * (4 * dim) / 3)
    return multiple_of * -(-hidden // multiple_of)


@dataclass(frozen=True)
class DecoderSpec:
    """Sizes and options of one dense decoder."""

    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    embed_dim: int
    intermediate_dim: int
    max_seq_len: int  # longest input, and size of RoPE and KV caches
    rope: Callable[..., nn.Module]  # makes the positional embedding from dim and max_seq_len
    head_dim: int | None = None  # None is embed_dim // num_heads
    attn_dropout: float = 0.0
    norm_eps: float = 1e-5
    qkv_bias: tuple[bool, bool, bool] = (False, False, False)
    output_bias: bool = False  # of the projection after attention
    qk_norm: tuple[bool, bool] = (False, False)  # normalize q, k per head before RoPE
    # From a layer's index, what makes its positional embedding, where layers differ; those of one maker share one.
    layer_rope: Callable[[int], Callable[..., nn.Module] | None] | None = None
    activation: Callable[[], nn.Module] = nn.SiLU
    norm: Callable[..., nn.Module] = RMSNorm  # from dim and eps
    final_norm: Callable[..., nn.Module] | None = None  # where it is another one
    embedding: Callable[..., nn.Embedding] = nn.Embedding
    attention: Mapping[str, Any] = field(default_factory=dict)  # further arguments of the attention layers
    mask_mod: Callable[[int], Callable[..., Any] | None] | None = None  # from a layer's index, its change of the mask
    wrap_layer: Callable[[int, nn.Module], nn.Module] | None = None  # what stands in a layer's place
    # Builds the feed-forward layer of a layer, by its index, where it isn't the gated one.
    feed_forward: Callable[[DecoderSpec, Adapter, int], nn.Module] | None = None
    residual_scale: float | None = None  # factor of what attention and feed-forward layers add (Granite)
    post_norms: bool = False  # norms after attention and after the feed-forward layer too (Gemma 2)
    tie_word_embeddings: bool = False
    output_wrapper: Callable[[Any], Any] | None = None  # put around the output layer
    num_classes: int | None = None  # size of the output where it is a classifier's
    # Which linear layers without adapter are NF4 in a quantized model.
    nf4_frozen: frozenset[str] = field(default_factory=lambda: frozenset((*_ATTN_NAMES, *_MLP_NAMES)))

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.head_dim or self.embed_dim // self.num_heads

    def classifier(self, num_classes: int) -> DecoderSpec:
        """The same decoder with ``num_classes`` outputs, and a feed-forward layer that is never quantized unasked."""
        return replace(
            self, num_classes=num_classes, tie_word_embeddings=False, nf4_frozen=self.nf4_frozen - frozenset(_MLP_NAMES)
        )


def plain_spec(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    head_dim: int | None = None,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-6,
    rope_base: float = 10_000.0,
    rope_scaling: dict[str, Any] | None = None,
    tie_word_embeddings: bool = False,
) -> DecoderSpec:
    """Llama's layers with rotary halves apart, as most checkpoints of others than Meta have them."""
    intermediate_dim = intermediate_dim or scale_hidden_dim_for_mlp(embed_dim)
    sizes = {name: value for name, value in locals().items() if not name.startswith("rope_")}
    return DecoderSpec(**sizes, rope=partial(ScaledRotaryPositionalEmbeddings, base=rope_base, scaling=rope_scaling))


@dataclass(frozen=True)
class Adapter:
    """Which linear layers get an adapter, and of which kind."""

    targets: frozenset[str]  # q_proj, k_proj, v_proj, output_proj, w1, w2, w3, output
    rank: int
    alpha: float
    dropout: float = 0.0
    use_dora: bool = False
    quantize_base: bool = False
    quantization: dict[str, Any] = field(default_factory=dict)  # further arguments of the NF4 conversion

    @classmethod
    def of(
        cls,
        lora_attn_modules: Iterable[str],
        apply_lora_to_mlp: bool = False,
        apply_lora_to_output: bool = False,
        *,
        lora_rank: int,
        lora_alpha: float,
        lora_dropout: float = 0.0,
        use_dora: bool = False,
        quantize_base: bool = False,
        scaler_block_size: int | None = None,
    ) -> Adapter:
        """The adapter that a builder's arguments describe; an error where a name is unknown, or no layer would get one."""
        names = list(lora_attn_modules)
        unknown = sorted(set(names) - set(_ATTN_NAMES))
        if unknown:
            raise ValueError(f"lora_attn_modules has unknown names {unknown}; known are {list(_ATTN_NAMES)}")
        targets = frozenset(
            names + list(_MLP_NAMES if apply_lora_to_mlp else ()) + (["output"] if apply_lora_to_output else [])
        )
        if not targets:
            raise ValueError(
                f"Must pass one or more of {list(_ATTN_NAMES)} as lora_attn_modules, or set apply_lora_to_mlp; "
                "as it is, no layer would get an adapter"
            )
        quantization = {"scaler_block_size": scaler_block_size} if quantize_base and scaler_block_size else {}
        return cls(targets, lora_rank, lora_alpha, lora_dropout, use_dora, quantize_base, quantization)

    def linear(self, name: str, in_dim: int, out_dim: int, bias: bool = False, nf4: bool = True) -> nn.Module:
        """The layer called ``name``: adapted, NF4 where quantized and ``nf4``, or a plain linear layer."""
        if name in self.targets:
            # A bias isn't stretched with the rows: so does PEFT, and so is a merged checkpoint right.
            layer = partial(DoRALinear, scale_bias=False) if self.use_dora else LoRALinear
            return layer(
                in_dim,
                out_dim,
                rank=self.rank,
                alpha=self.alpha,
                dropout=self.dropout,
                use_bias=bias,
                quantize_base=self.quantize_base and name != "output",
                **(self.quantization if name != "output" else {}),
            )
        if self.quantize_base and nf4 and name != "output":
            return FrozenNF4Linear(in_dim, out_dim, bias=bias, **self.quantization)
        return nn.Linear(in_dim, out_dim, bias=bias)


NO_ADAPTER = Adapter(frozenset(), rank=0, alpha=0.0)


def self_attention(spec: DecoderSpec, adapter: Adapter, rope: nn.Module | None) -> MultiHeadAttention:
    """Self-attention of one layer: ``[b, s, d] -> [b, s, d]``."""
    size, heads, kv_heads = spec.head_size, spec.num_heads, spec.num_kv_heads
    outs = {"q_proj": heads * size, "k_proj": kv_heads * size, "v_proj": kv_heads * size}
    projections: dict[str, Any] = {
        name: adapter.linear(name, spec.embed_dim, out, bias, name in spec.nf4_frozen)
        for (name, out), bias in zip(outs.items(), spec.qkv_bias, strict=True)
    }
    return MultiHeadAttention(
        embed_dim=spec.embed_dim,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=size,
        **projections,
        output_proj=adapter.linear(
            "output_proj", heads * size, spec.embed_dim, spec.output_bias, "output_proj" in spec.nf4_frozen
        ),
        pos_embeddings=rope,
        q_norm=spec.norm(size, eps=spec.norm_eps) if spec.qk_norm[0] else None,
        k_norm=spec.norm(size, eps=spec.norm_eps) if spec.qk_norm[1] else None,
        max_seq_len=spec.max_seq_len,
        attn_dropout=spec.attn_dropout,
        **{"norm_before_rope": True, **spec.attention},
    )


class Scale(nn.Module):
    """Multiplies by ``factor``."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[...] -> [...]``."""
        return x * self.factor


def feed_forward(spec: DecoderSpec, adapter: Adapter, index: int = 0) -> nn.Module:
    """Gated feed-forward of one layer: ``[b, s, d] -> [b, s, d]``."""
    linear = partial(adapter.linear, nf4=_MLP_NAMES[0] in spec.nf4_frozen)
    return FeedForward(
        gate_proj=linear("w1", spec.embed_dim, spec.intermediate_dim),
        down_proj=linear("w2", spec.intermediate_dim, spec.embed_dim),
        up_proj=linear("w3", spec.embed_dim, spec.intermediate_dim),
        activation=spec.activation(),
    )


def gated_mlp(
    dim: int, hidden_dim: int, quantize_base: bool = False, activation: Callable[[], nn.Module] = nn.SiLU
) -> FeedForward:
    """A gated feed-forward layer by itself: ``[b, s, dim]`` to the same.

    Args:
        dim (int): input and output size.
        hidden_dim (int): hidden size.
        quantize_base (bool): keep the weights in NF4, frozen.
        activation (Callable[[], nn.Module]): of the gate.
    """
    make = FrozenNF4Linear if quantize_base else partial(nn.Linear, bias=False)
    return FeedForward(
        gate_proj=make(dim, hidden_dim),
        down_proj=make(hidden_dim, dim),
        up_proj=make(dim, hidden_dim),
        activation=activation(),
    )


def _token_embedding(make: Callable[..., nn.Embedding], rows: int, columns: int) -> nn.Embedding:
    """A token embedding. On the meta device without first values, for whose sake torch would import its compiler (1 s)."""
    weight = torch.empty(rows, columns) if torch.get_default_device().type == "meta" else None
    return make(rows, columns, _weight=weight)


def dense_decoder(spec: DecoderSpec, adapter: Adapter = NO_ADAPTER) -> TransformerDecoder:
    """Build a decoder: ``[b, s]`` token ids to ``[b, s, vocab_size]`` logits."""
    if spec.tie_word_embeddings and "output" in adapter.targets:
        raise ValueError(
            "apply_lora_to_output is incompatible with tie_word_embeddings: the output layer has no weight of its own"
        )
    norm = partial(spec.norm, spec.embed_dim, eps=spec.norm_eps)
    tok_embeddings = _token_embedding(spec.embedding, spec.vocab_size, spec.embed_dim)

    @cache
    def rope(maker: Callable[..., nn.Module] | None) -> nn.Module | None:
        return maker(dim=spec.head_size, max_seq_len=spec.max_seq_len) if maker else None

    def layer(index: int) -> nn.Module:
        after = (
            norm if spec.post_norms else partial(Scale, spec.residual_scale) if spec.residual_scale else lambda: None
        )
        built = TransformerSelfAttentionLayer(
            attn=self_attention(spec, adapter, rope(spec.layer_rope(index) if spec.layer_rope else spec.rope)),
            mlp=(spec.feed_forward or feed_forward)(spec, adapter, index),
            sa_norm=norm(),
            mlp_norm=norm(),
            sa_scale=after(),
            mlp_scale=after(),
            mask_mod=spec.mask_mod(index) if spec.mask_mod else None,
        )
        return spec.wrap_layer(index, built) if spec.wrap_layer else built

    layers = nn.ModuleList(layer(index) for index in range(spec.num_layers))
    output: Any = (
        TiedLinear(tok_embeddings)
        if spec.tie_word_embeddings
        else adapter.linear("output", spec.embed_dim, spec.num_classes or spec.vocab_size)
    )
    model = TransformerDecoder(
        tok_embeddings=tok_embeddings,
        layers=layers,
        max_seq_len=spec.max_seq_len,
        num_heads=spec.num_heads,
        head_dim=spec.head_size,
        norm=(spec.final_norm or spec.norm)(spec.embed_dim, eps=spec.norm_eps),
        output=spec.output_wrapper(output) if spec.output_wrapper else output,
    )
    if adapter.quantize_base:
        dequantize_state_dict(model, next(tok_embeddings.parameters()).dtype)
    return model


def dequantize_state_dict(model: nn.Module, dtype: torch.dtype) -> None:
    """Let a quantized model's state dict hold plain weights, converted one tensor at a time on the CPU."""
    model._register_state_dict_hook(
        partial(reparametrize_as_dtype_state_dict_post_hook, dtype=dtype, offload_to_cpu=True)
    )
