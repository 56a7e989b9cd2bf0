"""A tiny decoder for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchtune.modules import (
    FeedForward,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositionalEmbeddings,
    TanhGate,
    TransformerCrossAttentionLayer,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)

VOCAB, DIM, HEADS, KV_HEADS, SIZE, HIDDEN, MAX_LEN = 13, 16, 4, 2, 4, 24, 12
Linear = Callable[[int, int], nn.Module]


def plain(in_dim: int, out_dim: int) -> nn.Module:
    return nn.Linear(in_dim, out_dim, bias=False)


def attention(linear: Linear = plain, rope: bool = True, **options: Any) -> MultiHeadAttention:
    return MultiHeadAttention(
        embed_dim=DIM,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=SIZE,
        q_proj=linear(DIM, HEADS * SIZE),
        k_proj=linear(DIM, KV_HEADS * SIZE),
        v_proj=linear(DIM, KV_HEADS * SIZE),
        output_proj=linear(HEADS * SIZE, DIM),
        pos_embeddings=RotaryPositionalEmbeddings(SIZE, max_seq_len=MAX_LEN) if rope else None,
        max_seq_len=MAX_LEN,
        **options,
    )


def mlp(linear: Linear = plain) -> FeedForward:
    return FeedForward(gate_proj=linear(DIM, HIDDEN), down_proj=linear(HIDDEN, DIM), up_proj=linear(DIM, HIDDEN))


def self_layer(linear: Linear = plain, **options: Any) -> TransformerSelfAttentionLayer:
    return TransformerSelfAttentionLayer(
        attention(linear), mlp(linear), sa_norm=RMSNorm(DIM), mlp_norm=RMSNorm(DIM), **options
    )


def cross_layer(gate: float = 0.7) -> TransformerCrossAttentionLayer:
    layer = TransformerCrossAttentionLayer(
        attention(rope=False, is_causal=False),
        mlp(),
        ca_norm=RMSNorm(DIM),
        mlp_norm=RMSNorm(DIM),
        ca_scale=TanhGate(),
        mlp_scale=TanhGate(),
    )
    for name, parameter in layer.named_parameters():
        if "scale.scale" in name:
            nn.init.constant_(parameter, gate)
    return layer


def decoder(
    layers: int | list[nn.Module] = 2, linear: Linear = plain, output: Any = None, seed: int = 0, **options: Any
) -> TransformerDecoder:
    torch.manual_seed(seed)
    return TransformerDecoder(
        tok_embeddings=nn.Embedding(VOCAB, DIM),
        layers=[self_layer(linear) for _ in range(layers)] if isinstance(layers, int) else layers,
        max_seq_len=MAX_LEN,
        num_heads=HEADS,
        head_dim=SIZE,
        norm=RMSNorm(DIM),
        output=output or nn.Linear(DIM, VOCAB, bias=False),
        **options,
    )
