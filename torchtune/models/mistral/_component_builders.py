"""Mistral, and classifiers and reward models on it."""

from __future__ import annotations

from dataclasses import replace

from torchtune.models._builders import classifier_spec, component_builders, spec_function
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.models._family import LAYER_KEYS, Family
from torchtune.models._key_maps import GENERIC_HF, GENERIC_META
from torchtune.models._masks import windows, windows_of
from torchtune.modules import RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2310.06825 (Mistral 7B)"


@spec_function(
    "vocab_size num_layers num_heads num_kv_heads embed_dim intermediate_dim max_seq_len attn_dropout norm_eps rope_base "
    "sliding_window head_dim layer_types",
    rope=RotaryPositionalEmbeddings,
    norm_eps=1e-5,
    rope_base=10_000,
)
def mistral_spec(
    spec: DecoderSpec, sliding_window: int | None = None, layer_types: list[str] | None = None
) -> DecoderSpec:
    """What a Mistral decoder of these sizes is made of."""
    return replace(spec, mask_mod=windows_of(sliding_window, layer_types) if layer_types else windows(sliding_window))


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
