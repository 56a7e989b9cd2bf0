"""Phi-3: Llama's layers with rotary halves apart; published with fused projections."""

from __future__ import annotations

from functools import partial

from torchtune.models._builders import component_builders, lora_attention_builder
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.models._family import Family
from torchtune.models._key_maps import PHI3_HF
from torchtune.models._masks import windows
from torchtune.models.phi3._position_embeddings import Phi3RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2404.14219 (Phi-3 Technical Report)"


def phi3_spec(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: int = 10_000,
    sliding_window: int | None = None,
) -> DecoderSpec:
    """What a Phi-3 decoder of these sizes is made of."""
    return DecoderSpec(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        intermediate_dim=intermediate_dim,
        max_seq_len=max_seq_len,
        attn_dropout=attn_dropout,
        norm_eps=norm_eps,
        rope=partial(Phi3RotaryPositionalEmbeddings, base=rope_base),
        mask_mod=windows(sliding_window),
    )


FAMILIES = (Family("phi3", phi3_spec, PHI3_HF, extra={"sliding_window": "sliding_window"}),)
phi3, lora_phi3 = component_builders("phi3", "Phi-3", phi3_spec, module=__name__, source=SOURCE)
phi3_mlp = gated_mlp
lora_phi3_self_attention = lora_attention_builder("lora_phi3_self_attention", "Phi-3", phi3_spec, module=__name__)
