"""Llama 4: a mixture of experts, with layers that have no positional embedding, and images among the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from torchtune.models._builders import part_builders
from torchtune.models._dense import NO_ADAPTER, Adapter, DecoderSpec, dense_decoder, dequantize_state_dict, feed_forward
from torchtune.models._masks import ChunkMask
from torchtune.models._moe import mixture_of_experts
from torchtune.models.clip._component_builders import clip_part
from torchtune.models.llama4._encoder import Llama4VisionEncoder, Llama4VisionProjectionHead
from torchtune.models.llama4._position_embeddings import Llama4ScaledRoPE, UncachedRoPE
from torchtune.modules import TransformerDecoder, rms_norm
from torchtune.modules.model_fusion import register_fusion_module
from torchtune.modules.moe import TokenChoiceTopKRouter


class HeadNorm(nn.Module):
    """Divides each head by its root mean square, without weights."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.norm_eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``[..., h] -> [..., h]``."""
        return rms_norm(x, self.norm_eps)


def _decoder(
    adapter: Adapter,
    *,
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    hidden_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    rope_base: int = 500_000,
    norm_eps: float = 1e-5,
    num_experts: int = 16,
    experts_per_token: int = 1,
    use_shared_expert: bool = True,
    use_qk_norm: bool = True,
    moe_every_n_layers: int | None = None,
    mlp_hidden_dim: int | None = None,
    skip_rope_interval: int | None = None,
    attention_chunk_size: int | None = None,
    use_scaled_rope: bool = False,
    rope_scale_factor: float = 16.0,
    rope_low_freq_factor: float = 1.0,
    rope_high_freq_factor: float = 1.0,
    old_context_len: int = 8192,
) -> TransformerDecoder:
    if moe_every_n_layers is not None and moe_every_n_layers > 1 and mlp_hidden_dim is None:
        raise ValueError(f"moe_every_n_layers={moe_every_n_layers} leaves dense layers: pass their mlp_hidden_dim")
    rope: Callable[..., nn.Module] = partial(UncachedRoPE, base=rope_base)
    if use_scaled_rope:
        rope = partial(
            Llama4ScaledRoPE,
            base=rope_base,
            scale_factor=rope_scale_factor,
            low_freq_factor=rope_low_freq_factor,
            high_freq_factor=rope_high_freq_factor,
            old_context_len=old_context_len,
        )
    chunks = ChunkMask(attention_chunk_size) if attention_chunk_size else None
    # Experts stay in their dtype where the base is quantized.
    experts = partial(
        mixture_of_experts,
        num_experts=num_experts,
        experts_per_token=experts_per_token,
        router=TokenChoiceTopKRouter,
        shared=use_shared_expert,
        quantizes=False,
    )

    def rotates(index: int) -> bool:
        return skip_rope_interval is None or (index + 1) % skip_rope_interval != 0

    def mlp(spec: DecoderSpec, adapter: Adapter, index: int) -> nn.Module:
        if moe_every_n_layers is None or (index + 1) % moe_every_n_layers == 0:
            return experts(spec, adapter)
        return feed_forward(replace(spec, intermediate_dim=mlp_hidden_dim or hidden_dim), adapter)

    def with_norms(index: int, layer: nn.Module) -> nn.Module:
        if use_qk_norm and rotates(index):
            layer.attn.q_norm, layer.attn.k_norm = HeadNorm(norm_eps), HeadNorm(norm_eps)  # type: ignore[union-attr]
        return layer

    sizes = (vocab_size, num_layers, num_heads, num_kv_heads, embed_dim, hidden_dim, max_seq_len)
    spec = DecoderSpec(
        *sizes,
        rope,
        attn_dropout=attn_dropout,
        norm_eps=norm_eps,
        layer_rope=lambda index: rope if rotates(index) else None,
        mask_mod=lambda index: chunks if rotates(index) else None,
        feed_forward=mlp,
        wrap_layer=with_norms,
        attention={"norm_before_rope": False},
    )
    return dense_decoder(spec, adapter)


def _projection_head(
    adapter: Adapter, decoder_embed_dim: int, clip_embed_dim: int, projection_embed_dim: int
) -> Llama4VisionProjectionHead:
    factor = 0.5
    sizes = [int(clip_embed_dim / factor**2), projection_embed_dim, projection_embed_dim, decoder_embed_dim]
    layers: list[nn.Module] = []
    for d_in, d_out in zip(sizes, sizes[1:], strict=False):
        layers += [adapter.linear("output", d_in, d_out), nn.GELU()]
    head = Llama4VisionProjectionHead(nn.Sequential(*layers[:-1]), pixel_shuffle_scaling_factor=factor)
    register_fusion_module(head)
    return head


def llama4_vision_projection_head(
    *, decoder_embed_dim: int, clip_embed_dim: int, projection_embed_dim: int
) -> Llama4VisionProjectionHead:
    """The projection from image tokens to the decoder: ``[b, e, clip_embed_dim] -> [b, (e - 1) / 4, decoder_embed_dim]``.

    Args:
        decoder_embed_dim (int): size of a token's vector in the decoder.
        clip_embed_dim (int): size of a token's vector in CLIP.
        projection_embed_dim (int): hidden size.
    """
    return _projection_head(NO_ADAPTER, decoder_embed_dim, clip_embed_dim, projection_embed_dim)


def lora_llama4_vision_projection_head(
    *,
    decoder_embed_dim: int,
    clip_embed_dim: int,
    projection_embed_dim: int,
    apply_lora_to_output: bool,
    lora_rank: int,
    lora_alpha: float,
    lora_dropout: float = 0.0,
    use_dora: bool = False,
    quantize_base: bool = False,
    **quantization_kwargs: Any,
) -> Llama4VisionProjectionHead:
    """The projection with LoRA or DoRA; see :func:`llama4_vision_projection_head` and see :func:`lora_llama4_decoder`.

    Args:
        apply_lora_to_output (bool): whether there are adapters at all.
        quantize_base (bool): has no effect, nor have its arguments: these three layers stay in their dtype.
    """
    adapter = Adapter(frozenset({"output"}), lora_rank, lora_alpha, lora_dropout, use_dora)
    return _projection_head(
        adapter if apply_lora_to_output else NO_ADAPTER, decoder_embed_dim, clip_embed_dim, projection_embed_dim
    )


def _vision_encoder(
    adapter: Adapter,
    fusion_adapter: Adapter,
    *,
    patch_size: int,
    num_heads: int,
    clip_embed_dim: int,
    clip_num_layers: int,
    clip_hidden_states: list[int] | None = None,
    projection_embed_dim: int,
    decoder_embed_dim: int,
    tile_size: int,
    max_num_tiles: int = 1,
    in_channels: int = 3,
) -> Llama4VisionEncoder:
    clip = clip_part(locals(), adapter=adapter, use_rope=True, append_cls_token=True, use_tile_pos_embed=False)
    head = _projection_head(fusion_adapter, decoder_embed_dim, clip_embed_dim, projection_embed_dim)
    encoder = Llama4VisionEncoder(clip=clip, projection_head=head)
    if adapter.quantize_base:
        dequantize_state_dict(encoder, clip.conv.weight.dtype)
    return encoder


SOURCE = "https://huggingface.co/meta-llama/Llama-4-Scout-17B-16E (model card and config.json)"

llama4_decoder, lora_llama4_decoder = part_builders(
    "llama4_decoder",
    "a Llama 4 decoder of any size",
    _decoder,
    module=__name__,
    flags=("decoder_lora",),
    returns="TransformerDecoder: token ids ``[b, s]`` to logits ``[b, s, vocab_size]``.",
    source=SOURCE,
)
llama4_vision_encoder, lora_llama4_vision_encoder = part_builders(
    "llama4_vision_encoder",
    "the image encoder of Llama 4",
    _vision_encoder,
    module=__name__,
    flags=("encoder_lora", "fusion_lora"),
    returns="Llama4VisionEncoder: tiles ``[..., c, h, w]`` to ``[n, e, decoder_embed_dim]``.",
    source=SOURCE,
    quantization_kwargs=True,
)
