"""Mistral, and classifiers and reward models on it."""

from __future__ import annotations

from functools import partial

from torchtune.models._builders import classifier_spec, component_builders
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.models._family import LAYER_KEYS, Family
from torchtune.models._key_maps import GENERIC_HF, GENERIC_META
from torchtune.models._masks import windows, windows_of
from torchtune.modules import RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2310.06825 (Mistral 7B)"


def mistral_spec(
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
    head_dim: int | None = None,
    layer_types: list[str] | None = None,
) -> DecoderSpec:
    """What a Mistral decoder of these sizes is made of."""
    return DecoderSpec(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        intermediate_dim=intermediate_dim,
        max_seq_len=max_seq_len,
        head_dim=head_dim,
        attn_dropout=attn_dropout,
        norm_eps=norm_eps,
        rope=partial(RotaryPositionalEmbeddings, base=rope_base),
        mask_mod=windows_of(sliding_window, layer_types) if layer_types else windows(sliding_window),
    )


FAMILIES = (
    Family("mistral", mistral_spec, GENERIC_HF, GENERIC_META, extra={"sliding_window": "sliding_window"}),
    Family("ministral", mistral_spec, GENERIC_HF, extra=LAYER_KEYS),
)
mistral_classifier_spec = classifier_spec(mistral_spec)
mistral, lora_mistral = component_builders("mistral", "Mistral", mistral_spec, module=__name__, source=SOURCE)
mistral_classifier, lora_mistral_classifier = component_builders(
    "mistral_classifier", "Mistral classifier", mistral_classifier_spec, module=__name__, source=SOURCE
)
mistral_mlp = gated_mlp
