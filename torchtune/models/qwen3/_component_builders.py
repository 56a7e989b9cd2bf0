"""Qwen3: Qwen2 without biases, with q and k normalized per head."""

from __future__ import annotations

from dataclasses import replace

from torchtune.models._builders import component_builders, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models._family import Family
from torchtune.models._key_maps import QWEN3_HF
from torchtune.models._rope import Qwen2RotaryPositionalEmbeddings
from torchtune.models.qwen2._component_builders import SIZES


@spec_function(SIZES, rope=Qwen2RotaryPositionalEmbeddings, rope_base=1_000_000.0)
def qwen3_spec(
    spec: DecoderSpec,
    q_proj_bias: bool = False,
    k_proj_bias: bool = False,
    v_proj_bias: bool = False,
    q_norm: bool = True,
    k_norm: bool = True,
) -> DecoderSpec:
    """What a Qwen3 decoder of these sizes is made of."""
    biases = (q_proj_bias, k_proj_bias, v_proj_bias)
    return replace(spec, qkv_bias=biases, qk_norm=(q_norm, k_norm), nf4_frozen=frozenset())


FAMILIES = (Family("qwen3", qwen3_spec, QWEN3_HF, fixed={"use_sliding_window": False, "attention_bias": False}),)
qwen3, lora_qwen3 = component_builders(
    "qwen3", "Qwen3", qwen3_spec, module=__name__, source="https://arxiv.org/abs/2505.09388 (Qwen3 Technical Report)"
)
