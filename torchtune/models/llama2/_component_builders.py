"""Llama 2, and classifiers and reward models on it."""

from __future__ import annotations

from functools import partial

from torchtune.models._builders import classifier_spec, component_builders, lora_attention_builder
from torchtune.models._dense import DecoderSpec, gated_mlp, scale_hidden_dim_for_mlp
from torchtune.models._family import Family
from torchtune.models._key_maps import GENERIC_HF, GENERIC_META
from torchtune.modules import RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2307.09288 (Llama 2)"


def llama2_spec(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    intermediate_dim: int | None = None,
    norm_eps: float = 1e-5,
    rope_base: float = 10_000.0,
) -> DecoderSpec:
    """What a Llama 2 decoder of these sizes is made of."""
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
        rope=partial(RotaryPositionalEmbeddings, base=rope_base),  # type: ignore[arg-type]
    )


FAMILIES = (Family("llama", llama2_spec, GENERIC_HF, GENERIC_META, fixed={"attention_bias": False, "mlp_bias": False}),)
llama2_classifier_spec = classifier_spec(llama2_spec)
llama2, lora_llama2 = component_builders("llama2", "Llama 2", llama2_spec, module=__name__, source=SOURCE)
llama2_classifier, lora_llama2_classifier = component_builders(
    "llama2_classifier", "Llama 2 classifier", llama2_classifier_spec, module=__name__, source=SOURCE
)
llama2_mlp = gated_mlp
lora_llama2_self_attention = lora_attention_builder(
    "lora_llama2_self_attention", "Llama 2", llama2_spec, module=__name__
)
