"""CLIP encoders of any size: of texts, and of images cut into tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchtune.models._dense import NO_ADAPTER, Adapter
from torchtune.models.clip._position_embeddings import (
    TiledTokenPositionalEmbedding,
    TilePositionalEmbedding,
    TokenPositionalEmbedding,
)
from torchtune.models.clip._text_encoder import CLIPTextEncoder
from torchtune.modules import (
    FeedForward,
    Fp32LayerNorm,
    FrozenNF4Linear,
    MultiHeadAttention,
    TransformerSelfAttentionLayer,
    VisionRotaryPositionalEmbeddings,
    VisionTransformer,
)
from torchtune.modules.vision_transformer import CLSProjection


def clip_text_encoder(
    embed_dim: int,
    num_heads: int,
    num_layers: int,
    vocab_size: int = 49_408,
    max_seq_len: int = 77,
    norm_eps: float = 1e-5,
) -> CLIPTextEncoder:
    """A CLIP text encoder: token ids ``[b, s]`` to vectors ``[b, embed_dim]``; see :class:`CLIPTextEncoder`."""
    return CLIPTextEncoder(**locals())


def clip_mlp(
    in_dim: int,
    out_dim: int,
    hidden_dim: int,
    activation: nn.Module,
    quantize_base: bool = False,
    **quantization_kwargs: Any,
) -> FeedForward:
    """A feed-forward layer with biases and without gate: ``[..., in_dim]`` to ``[..., out_dim]``.

    Args:
        in_dim (int): size of the input.
        out_dim (int): size of the output.
        hidden_dim (int): hidden size.
        activation (nn.Module): activation.
        quantize_base (bool): keep the weights in NF4, frozen; ``quantization_kwargs`` are those of the conversion.
    """

    def linear(d_in: int, d_out: int) -> nn.Module:
        if quantize_base:
            return FrozenNF4Linear(d_in, d_out, bias=True, **quantization_kwargs)
        return nn.Linear(d_in, d_out)

    return FeedForward(
        gate_proj=linear(in_dim, hidden_dim), down_proj=linear(hidden_dim, out_dim), activation=activation
    )


def vision_layer(
    embed_dim: int,
    num_heads: int,
    activation: Callable[[], nn.Module],
    attn_bias: bool,
    adapter: Adapter = NO_ADAPTER,
    rope: nn.Module | None = None,
    scales: Callable[[], nn.Module] | None = None,
) -> TransformerSelfAttentionLayer:
    """One layer of an image encoder: ``[b, s, d] -> [b, s, d]``, every token seeing all others."""

    def projection(name: str) -> nn.Module:
        return adapter.linear(name, embed_dim, embed_dim, bias=attn_bias)

    return TransformerSelfAttentionLayer(
        attn=MultiHeadAttention(
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=embed_dim // num_heads,
            q_proj=projection("q_proj"),
            k_proj=projection("k_proj"),
            v_proj=projection("v_proj"),
            output_proj=projection("output_proj"),
            pos_embeddings=rope,
            is_causal=False,
        ),
        mlp=FeedForward(
            gate_proj=adapter.linear("w1", embed_dim, 4 * embed_dim, bias=True),
            down_proj=adapter.linear("w2", 4 * embed_dim, embed_dim, bias=True),
            activation=activation(),
        ),
        sa_norm=Fp32LayerNorm(embed_dim, eps=1e-5),
        mlp_norm=Fp32LayerNorm(embed_dim, eps=1e-5),
        sa_scale=scales() if scales else None,
        mlp_scale=scales() if scales else None,
    )


def clip_vision_encoder(
    tile_size: int,
    patch_size: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    activation: Callable[[], nn.Module] = nn.SiLU,
    cls_output_dim: int = 512,
    attn_bias: bool = True,
    use_rope: bool = False,
    out_indices: list[int] | None = None,
    output_cls_projection: bool = False,
    max_num_tiles: int = 4,
    in_channels: int = 3,
    append_cls_token: bool = False,
    use_tile_pos_embed: bool = True,
    *,
    adapter: Adapter = NO_ADAPTER,
    vision_transformer: type[VisionTransformer] = VisionTransformer,
) -> VisionTransformer:
    """Build CLIP's image encoder, for images cut into tiles.

    Args:
        tile_size (int): pixels of a tile's side.
        patch_size (int): pixels of a patch's side.
        embed_dim (int): size of a token's vector.
        num_layers (int): number of layers.
        num_heads (int): attention heads.
        activation (Callable[[], nn.Module]): makes the activation of the feed-forward layers.
        cls_output_dim (int): size of the CLS token's projection.
        attn_bias (bool): biases in the projections of attention.
        use_rope (bool): two-dimensional rotary embedding, besides the learned ones.
        out_indices (list[int] | None): layers whose input is returned too.
        output_cls_projection (bool): return only the projected CLS token.
        max_num_tiles (int): most tiles of an image; 1 leaves out the embeddings of tiles.
        in_channels (int): channels of an image.
        append_cls_token (bool): put the CLS token last, not first.
        use_tile_pos_embed (bool): learned embeddings of tiles.
        adapter (Adapter): which linear layers are adapted or quantized.
        vision_transformer (type[VisionTransformer]): what to build.

    Returns:
        VisionTransformer: images ``[b, n, t, c, w, h]`` to tokens, or to CLS vectors.

    Raises:
        ValueError: where ``embed_dim`` isn't a multiple of ``num_heads``.

    Source: https://arxiv.org/abs/2103.00020 (CLIP), https://arxiv.org/abs/2407.21783 (tiles)
    """
    if embed_dim % num_heads != 0:
        raise ValueError(f"embed_dim must be divisible by num_heads, got {embed_dim} and {num_heads}")
    rope = (
        VisionRotaryPositionalEmbeddings(patch_size, tile_size, embed_dim // num_heads, 10_000, append_cls_token)
        if use_rope
        else None
    )
    tiled = max_num_tiles > 1
    with_tiles = tiled and use_tile_pos_embed
    return vision_transformer(
        num_layers=num_layers,
        layer=vision_layer(embed_dim, num_heads, activation, attn_bias, adapter, rope),
        token_pos_embedding=(
            TiledTokenPositionalEmbedding(max_num_tiles, embed_dim, tile_size, patch_size)
            if tiled
            else TokenPositionalEmbedding(embed_dim, tile_size, patch_size)
        ),
        pre_tile_pos_embed=TilePositionalEmbedding(max_num_tiles, embed_dim) if with_tiles else None,
        post_tile_pos_embed=TilePositionalEmbedding(max_num_tiles, embed_dim) if with_tiles else None,
        cls_projection=CLSProjection(embed_dim, cls_output_dim) if output_cls_projection else None,
        out_indices=out_indices,
        tile_size=tile_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        in_channels=in_channels,
        append_cls_token=append_cls_token,
    )


def clip_part(sizes: Mapping[str, Any], **options: Any) -> VisionTransformer:
    """The image encoder inside of another model, from the arguments ``sizes`` of that one's builder."""
    names = {"embed_dim": "clip_embed_dim", "num_layers": "clip_num_layers", "out_indices": "clip_hidden_states"}
    names |= {name: name for name in ("tile_size", "patch_size", "num_heads", "max_num_tiles", "in_channels")}
    own = {ours: sizes[theirs] for ours, theirs in names.items()}
    return clip_vision_encoder(**own, activation=nn.GELU, **options)
