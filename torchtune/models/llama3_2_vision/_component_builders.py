"""Llama 3.2 Vision: Llama 3.1 with cross-attention to an image encoder in some layers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from torchtune.models._dense import (
    LORA_ATTN_MODULES,
    NO_ADAPTER,
    Adapter,
    DecoderSpec,
    dense_decoder,
    dequantize_state_dict,
    feed_forward,
    self_attention,
)
from torchtune.models.clip._component_builders import clip_vision_encoder, vision_layer
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
    max_num_tiles: int,
    in_channels: int,
) -> Llama3VisionEncoder:
    clip = clip_vision_encoder(
        tile_size=tile_size,
        patch_size=patch_size,
        embed_dim=clip_embed_dim,
        num_layers=clip_num_layers,
        num_heads=num_heads,
        activation=nn.GELU,
        out_indices=clip_hidden_states,
        max_num_tiles=max_num_tiles,
        in_channels=in_channels,
        attn_bias=False,
        output_cls_projection=False,
        adapter=clip_adapter,
        vision_transformer=Llama3VisionTransformer,
    )
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


def llama3_2_vision_encoder(
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
    """Build the image encoder of Llama 3.2 Vision.

    Args:
        patch_size (int): pixels of a patch's side.
        num_heads (int): attention heads.
        clip_embed_dim (int): size of a token's vector in CLIP.
        clip_num_layers (int): layers of CLIP.
        clip_hidden_states (list[int] | None): layers of CLIP whose input is joined to the output.
        num_layers_projection (int): layers after CLIP.
        decoder_embed_dim (int): size of a token's vector in the decoder.
        tile_size (int): pixels of a tile's side.
        max_num_tiles (int): most tiles of an image.
        in_channels (int): channels of an image.

    Returns:
        Llama3VisionEncoder: images ``[b, i, t, c, w, h]`` to ``[b, i * t * e, decoder_embed_dim]``.

    Source: https://arxiv.org/abs/2407.21783, section 7
    """
    return _encoder(NO_ADAPTER, NO_ADAPTER, **locals())


def _adapters(
    first: bool,
    second: bool,
    lora_attn_modules: list[LORA_ATTN_MODULES],
    apply_lora_to_mlp: bool,
    apply_lora_to_output: bool,
    **options: Any,
) -> tuple[Adapter, Adapter]:
    """Adapters of two parts, none where a part has none."""
    quantization = options.pop("quantization", {})
    adapter = Adapter.of(lora_attn_modules, apply_lora_to_mlp, apply_lora_to_output, **options)
    adapter = replace(adapter, quantization=quantization)
    return adapter if first else NO_ADAPTER, adapter if second else NO_ADAPTER


def lora_llama3_2_vision_encoder(
    encoder_lora: bool,
    fusion_lora: bool,
    lora_attn_modules: list[LORA_ATTN_MODULES],
    apply_lora_to_mlp: bool = False,
    apply_lora_to_output: bool = False,
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
    lora_rank: int = 8,
    lora_alpha: float = 16,
    lora_dropout: float = 0.0,
    use_dora: bool = False,
    quantize_base: bool = False,
    **quantization_kwargs: Any,
) -> Llama3VisionEncoder:
    """Build the image encoder of Llama 3.2 Vision with LoRA, DoRA or QLoRA.

    Args:
        encoder_lora (bool): adapt CLIP.
        fusion_lora (bool): adapt the layers after it.
        lora_attn_modules (list[LORA_ATTN_MODULES]): attention projections that get an adapter.
        apply_lora_to_mlp (bool): adapt the feed-forward layers too.
        apply_lora_to_output (bool): adapt the projection to the decoder too.
        patch_size (int): pixels of a patch's side.
        num_heads (int): attention heads.
        clip_embed_dim (int): size of a token's vector in CLIP.
        clip_num_layers (int): layers of CLIP.
        clip_hidden_states (list[int] | None): layers of CLIP whose input is joined to the output.
        num_layers_projection (int): layers after CLIP.
        decoder_embed_dim (int): size of a token's vector in the decoder.
        tile_size (int): pixels of a tile's side.
        max_num_tiles (int): most tiles of an image.
        in_channels (int): channels of an image.
        lora_rank (int): rank of the low-rank update.
        lora_alpha (float): scale of the update: ``lora_alpha / lora_rank``.
        lora_dropout (float): dropout before the update.
        use_dora (bool): DoRA instead of LoRA.
        quantize_base (bool): keep the base weights of adapted parts in NF4.
        **quantization_kwargs (Any): further arguments of the NF4 conversion.

    Returns:
        Llama3VisionEncoder: images ``[b, i, t, c, w, h]`` to ``[b, i * t * e, decoder_embed_dim]``.
    """
    clip_adapter, fusion_adapter = _adapters(
        encoder_lora,
        fusion_lora,
        lora_attn_modules,
        apply_lora_to_mlp,
        apply_lora_to_output,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        use_dora=use_dora,
        quantize_base=quantize_base,
        quantization=quantization_kwargs,
    )
    return _encoder(
        clip_adapter,
        fusion_adapter,
        patch_size=patch_size,
        num_heads=num_heads,
        clip_embed_dim=clip_embed_dim,
        clip_num_layers=clip_num_layers,
        clip_hidden_states=clip_hidden_states,
        num_layers_projection=num_layers_projection,
        decoder_embed_dim=decoder_embed_dim,
        tile_size=tile_size,
        max_num_tiles=max_num_tiles,
        in_channels=in_channels,
    )


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
    fusion_interval: int,
    num_special_tokens: int,
    encoder_max_seq_len: int,
    rope_base: float,
    **sizes: Any,
) -> TransformerDecoder:
    spec = llama3_1_spec(**sizes, rope_base=rope_base)  # type: ignore[arg-type]

    def fuse(index: int, layer: nn.Module) -> nn.Module:
        if (index + 1) % fusion_interval != 0:
            return layer
        return FusionLayer(layer=layer, fusion_layer=_cross_attention(spec, fusion_adapter, encoder_max_seq_len))

    embedding: Any = partial(_fusion_embedding, num_special_tokens)
    model = dense_decoder(replace(spec, embedding=embedding, wrap_layer=fuse), decoder_adapter)
    if fusion_adapter.quantize_base and not decoder_adapter.quantize_base:
        dequantize_state_dict(model, next(model.norm.parameters()).dtype)
    return model


def _fusion_embedding(num_special_tokens: int, vocab_size: int, embed_dim: int) -> FusionEmbedding:
    return FusionEmbedding(vocab_size, num_special_tokens, embed_dim)


def llama3_2_vision_decoder(
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
    """Build the decoder of Llama 3.2 Vision.

    Args:
        vocab_size (int): number of tokens.
        num_layers (int): number of layers, without those of cross-attention.
        fusion_interval (int): every so many layers there is cross-attention.
        num_special_tokens (int): tokens that were added to the vocabulary for images.
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        embed_dim (int): size of a token's vector.
        max_seq_len (int): longest input.
        encoder_max_seq_len (int): most image tokens.
        rope_base (float): base of the rotary frequencies.
        intermediate_dim (int | None): hidden size of the feed-forward layers; None scales it from ``embed_dim``.

    Returns:
        TransformerDecoder: token ids ``[b, s]`` and image tokens to logits ``[b, s, vocab_size]``.

    Source: https://arxiv.org/abs/2407.21783, section 7
    """
    return _decoder(NO_ADAPTER, NO_ADAPTER, **locals())


def lora_llama3_2_vision_decoder(
    decoder_lora: bool,
    fusion_lora: bool,
    lora_attn_modules: list[LORA_ATTN_MODULES],
    apply_lora_to_mlp: bool = False,
    apply_lora_to_output: bool = False,
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
    lora_rank: int = 8,
    lora_alpha: float = 16,
    lora_dropout: float = 0.0,
    use_dora: bool = False,
    quantize_base: bool = False,
) -> TransformerDecoder:
    """Build the decoder of Llama 3.2 Vision with LoRA, DoRA or QLoRA.

    Args:
        decoder_lora (bool): adapt the layers of self-attention, and the output where asked for.
        fusion_lora (bool): adapt the layers of cross-attention.
        lora_attn_modules (list[LORA_ATTN_MODULES]): attention projections that get an adapter.
        apply_lora_to_mlp (bool): adapt the feed-forward layers too.
        apply_lora_to_output (bool): adapt the output layer too.
        vocab_size (int): number of tokens.
        num_layers (int): number of layers, without those of cross-attention.
        fusion_interval (int): every so many layers there is cross-attention.
        num_special_tokens (int): tokens that were added to the vocabulary for images.
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        embed_dim (int): size of a token's vector.
        max_seq_len (int): longest input.
        encoder_max_seq_len (int): most image tokens.
        rope_base (float): base of the rotary frequencies.
        intermediate_dim (int | None): hidden size of the feed-forward layers; None scales it from ``embed_dim``.
        lora_rank (int): rank of the low-rank update.
        lora_alpha (float): scale of the update: ``lora_alpha / lora_rank``.
        lora_dropout (float): dropout before the update.
        use_dora (bool): DoRA instead of LoRA.
        quantize_base (bool): keep the base weights of adapted parts in NF4.

    Returns:
        TransformerDecoder: token ids ``[b, s]`` and image tokens to logits ``[b, s, vocab_size]``.
    """
    decoder_adapter, fusion_adapter = _adapters(
        decoder_lora,
        fusion_lora,
        lora_attn_modules,
        apply_lora_to_mlp,
        apply_lora_to_output,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        use_dora=use_dora,
        quantize_base=quantize_base,
    )
    return _decoder(
        decoder_adapter,
        fusion_adapter,
        vocab_size=vocab_size,
        num_layers=num_layers,
        fusion_interval=fusion_interval,
        num_special_tokens=num_special_tokens,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        max_seq_len=max_seq_len,
        encoder_max_seq_len=encoder_max_seq_len,
        rope_base=rope_base,
        intermediate_dim=intermediate_dim,
    )
