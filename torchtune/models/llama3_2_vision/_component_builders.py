"""Llama 3.2 Vision: Llama 3.1 with cross-attention to an image encoder in some layers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from torchtune.models._builders import part_builders
from torchtune.models._dense import (
    Adapter,
    DecoderSpec,
    dense_decoder,
    dequantize_state_dict,
    feed_forward,
    self_attention,
)
from torchtune.models.clip._component_builders import clip_part, vision_layer
from torchtune.models.llama3_1._component_builders import llama3_1_spec
from torchtune.models.llama3_2_vision._encoder import (
    Llama3VisionEncoder,
    Llama3VisionProjectionHead,
    Llama3VisionTransformer,
)
from torchtune.modules import TanhGate, TransformerCrossAttentionLayer, TransformerDecoder
from torchtune.modules.model_fusion import FusionEmbedding, FusionLayer, register_fusion_module


def _encoder(
    clip_adapter: Adapter,
    fusion_adapter: Adapter,
    *,
    patch_size: int,
    num_heads: int,
    clip_embed_dim: int,
    clip_num_layers: int,
    clip_hidden_states: list[int] | None,
    num_layers_projection: int,
    decoder_embed_dim: int,
    tile_size: int,
    max_num_tiles: int = 4,
    in_channels: int = 3,
) -> Llama3VisionEncoder:
    clip = clip_part(locals(), attn_bias=False, adapter=clip_adapter, vision_transformer=Llama3VisionTransformer)
    num_hidden = len(clip_hidden_states or [])
    head = Llama3VisionProjectionHead(
        layers=nn.ModuleList(
            vision_layer(clip_embed_dim, num_heads, nn.GELU, False, fusion_adapter, scales=TanhGate)
            for _ in range(num_layers_projection)
        ),
        output=fusion_adapter.linear("output", clip_embed_dim * (num_hidden + 1), decoder_embed_dim, bias=True),
        num_hidden_inputs=num_hidden,
    )
    register_fusion_module(head)
    encoder = Llama3VisionEncoder(clip=clip, projection_head=head)
    if clip_adapter.quantize_base or fusion_adapter.quantize_base:
        dequantize_state_dict(encoder, clip.conv.weight.dtype)
    return encoder


def _cross_attention(spec: DecoderSpec, adapter: Adapter, encoder_max_seq_len: int) -> TransformerCrossAttentionLayer:
    """Gated cross-attention of a decoder layer to the image tokens."""
    spec = replace(spec, qk_norm=(True, True), max_seq_len=encoder_max_seq_len, attention={"is_causal": False})
    return TransformerCrossAttentionLayer(
        attn=self_attention(spec, adapter, None),
        mlp=feed_forward(spec, adapter),
        ca_norm=spec.norm(spec.embed_dim, eps=spec.norm_eps),
        mlp_norm=spec.norm(spec.embed_dim, eps=spec.norm_eps),
        ca_scale=TanhGate(),
        mlp_scale=TanhGate(),
    )


def _decoder(
    decoder_adapter: Adapter,
    fusion_adapter: Adapter,
    *,
    vocab_size: int,
    num_layers: int,
    fusion_interval: int,
    num_special_tokens: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    max_seq_len: int,
    encoder_max_seq_len: int,
    rope_base: float = 500_000.0,
    intermediate_dim: int | None = None,
) -> TransformerDecoder:
    spec = llama3_1_spec(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        max_seq_len=max_seq_len,
        rope_base=rope_base,  # type: ignore[arg-type]
        intermediate_dim=intermediate_dim,
    )

    def fuse(index: int, layer: nn.Module) -> nn.Module:
        if (index + 1) % fusion_interval != 0:
            return layer
        return FusionLayer(layer=layer, fusion_layer=_cross_attention(spec, fusion_adapter, encoder_max_seq_len))

    embedding: Any = partial(_fusion_embedding, num_special_tokens)
    model = dense_decoder(replace(spec, embedding=embedding, wrap_layer=fuse), decoder_adapter)
    if fusion_adapter.quantize_base and not decoder_adapter.quantize_base:
        dequantize_state_dict(model, next(model.norm.parameters()).dtype)
    return model


def _fusion_embedding(num_special_tokens: int, vocab_size: int, embed_dim: int, **_weight: Any) -> FusionEmbedding:
    return FusionEmbedding(vocab_size, num_special_tokens, embed_dim)


SOURCE = "https://arxiv.org/abs/2407.21783 (The Llama 3 Herd of Models), section 7"

llama3_2_vision_encoder, lora_llama3_2_vision_encoder = part_builders(
    "llama3_2_vision_encoder",
    "the image encoder of Llama 3.2 Vision",
    _encoder,
    module=__name__,
    flags=("encoder_lora", "fusion_lora"),
    returns="Llama3VisionEncoder: images ``[b, i, t, c, w, h]`` to ``[b, i * t * e, decoder_embed_dim]``.",
    source=SOURCE,
    quantization_kwargs=True,
)
llama3_2_vision_decoder, lora_llama3_2_vision_decoder = part_builders(
    "llama3_2_vision_decoder",
    "the decoder of Llama 3.2 Vision",
    _decoder,
    module=__name__,
    flags=("decoder_lora", "fusion_lora"),
    returns="TransformerDecoder: token ids ``[b, s]`` and image tokens to logits ``[b, s, vocab_size]``.",
    source=SOURCE,
)
