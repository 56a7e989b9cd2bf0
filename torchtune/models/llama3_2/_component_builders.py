"""Llama 3.2: small Llama 3.1 models, further stretched, whose output layer is the embedding."""

from __future__ import annotations

from dataclasses import replace

from torchtune.models._builders import component_builders
from torchtune.models._dense import DecoderSpec
from torchtune.models.llama3_1._component_builders import llama3_1_spec

SOURCE = "https://huggingface.co/meta-llama/Llama-3.2-1B (model card)"


def llama3_2_spec(
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
    scale_factor: int = 32,
    tie_word_embeddings: bool = True,
) -> DecoderSpec:
    """What a Llama 3.2 decoder of these sizes is made of."""
    spec = llama3_1_spec(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        max_seq_len=max_seq_len,
        attn_dropout=attn_dropout,
        rope_base=rope_base,
        intermediate_dim=intermediate_dim,
        norm_eps=norm_eps,
        scale_factor=scale_factor,
    )
    return replace(spec, tie_word_embeddings=tie_word_embeddings)


llama3_2, lora_llama3_2 = component_builders("llama3_2", "Llama 3.2", llama3_2_spec, module=__name__, source=SOURCE)
