"""Phi-3: Llama's layers with rotary halves apart; published with fused projections."""

from __future__ import annotations

from dataclasses import replace

from torchtune.models._builders import component_builders, lora_attention_builder, spec_function
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.models._family import Family
from torchtune.models._key_maps import PHI3_HF
from torchtune.models._masks import windows
from torchtune.models._rope import Phi3RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2404.14219 (Phi-3 Technical Report)"


@spec_function(
    "vocab_size num_layers num_heads num_kv_heads embed_dim intermediate_dim max_seq_len attn_dropout norm_eps rope_base "
    "sliding_window",
    rope=Phi3RotaryPositionalEmbeddings,
    norm_eps=1e-5,
    rope_base=10_000,
)
def phi3_spec(spec: DecoderSpec, sliding_window: int | None = None) -> DecoderSpec:
    """What a Phi-3 decoder of these sizes is made of."""
    return replace(spec, mask_mod=windows(sliding_window))


FAMILIES = (Family("phi3", phi3_spec, PHI3_HF, extra={"sliding_window": "sliding_window"}),)
phi3, lora_phi3 = component_builders("phi3", "Phi-3", phi3_spec, module=__name__, source=SOURCE)
phi3_mlp = gated_mlp
lora_phi3_self_attention = lora_attention_builder("lora_phi3_self_attention", "Phi-3", phi3_spec, module=__name__)
