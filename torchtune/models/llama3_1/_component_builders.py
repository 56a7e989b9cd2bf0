"""Llama 3.1: Llama 3 with stretched low rotary frequencies, for inputs of 128k tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torchtune.models._builders import component_builders
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.models.llama3._component_builders import SOURCE, llama3_spec
from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE


def llama3_1_spec(
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
    scale_factor: int = 8,
) -> DecoderSpec:
    """What a Llama 3.1 decoder of these sizes is made of."""
    spec = llama3_spec(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        max_seq_len=max_seq_len,
        attn_dropout=attn_dropout,
        intermediate_dim=intermediate_dim,
        norm_eps=norm_eps,
    )
    return replace(spec, rope=partial(Llama3ScaledRoPE, base=rope_base, scale_factor=scale_factor))


llama3_1, lora_llama3_1 = component_builders("llama3_1", "Llama 3.1", llama3_1_spec, module=__name__, source=SOURCE)
llama3_mlp = gated_mlp
