"""Llama 2, and classifiers and reward models on it."""

from __future__ import annotations

from torchtune.models._builders import classifier_spec, component_builders, lora_attention_builder, spec_function
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.models._family import Family
from torchtune.models._key_maps import GENERIC_HF, GENERIC_META
from torchtune.modules import RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2307.09288 (Llama 2)"


@spec_function(
    "vocab_size num_layers num_heads num_kv_heads embed_dim max_seq_len attn_dropout intermediate_dim norm_eps rope_base",
    rope=RotaryPositionalEmbeddings,
    intermediate_dim=None,
    norm_eps=1e-5,
)
def llama2_spec(spec: DecoderSpec) -> DecoderSpec:
    """What a Llama 2 decoder of these sizes is made of."""
    return spec


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
