"""Llama 3: grouped-query attention and a large rotary base."""

from __future__ import annotations

from functools import partial

from torchtune.models._builders import component_builders
from torchtune.models._dense import DecoderSpec, gated_mlp, scale_hidden_dim_for_mlp
from torchtune.modules import RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2407.21783 (The Llama 3 Herd of Models)"


def llama3_spec(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    rope_base: int = 500_000,
    intermediate_dim: int | None = None,
    norm_eps: float = 1e-5,
) -> DecoderSpec:
    """What a Llama 3 decoder of these sizes is made of."""
    return DecoderSpec(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        intermediate_dim=intermediate_dim or scale_hidden_dim_for_mlp(embed_dim),
        max_seq_len=max_seq_len,
        attn_dropout=attn_dropout,
        norm_eps=norm_eps,
        rope=partial(RotaryPositionalEmbeddings, base=rope_base),
    )


llama3, lora_llama3 = component_builders(
    "llama3", "Llama 3", llama3_spec, module=__name__, source=SOURCE, scaler_block_size=True
)
llama3_mlp = gated_mlp
