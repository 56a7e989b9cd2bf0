"""Llama 3: grouped-query attention and a large rotary base."""

from __future__ import annotations

from typing import Any

from torchtune.models._builders import component_builders, spec_function
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.modules import RotaryPositionalEmbeddings

SIZES = "vocab_size num_layers num_heads num_kv_heads embed_dim max_seq_len attn_dropout rope_base intermediate_dim norm_eps"
DEFAULTS: dict[str, Any] = {
    "rope": RotaryPositionalEmbeddings,
    "rope_base": 500_000,
    "intermediate_dim": None,
    "norm_eps": 1e-5,
}
SOURCE = "https://arxiv.org/abs/2407.21783 (The Llama 3 Herd of Models)"


@spec_function(SIZES, **DEFAULTS)
def llama3_spec(spec: DecoderSpec) -> DecoderSpec:
    """What a Llama 3 decoder of these sizes is made of."""
    return spec


llama3, lora_llama3 = component_builders(
    "llama3", "Llama 3", llama3_spec, module=__name__, source=SOURCE, scaler_block_size=True
)
llama3_mlp = gated_mlp
