"""Llama 3.1: Llama 3 with stretched low rotary frequencies, for inputs of 128k tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torchtune.models._builders import component_builders, spec_function
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.models.llama3._component_builders import DEFAULTS, SIZES, SOURCE
from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE


@spec_function(f"{SIZES} scale_factor", **DEFAULTS | {"rope": Llama3ScaledRoPE})
def llama3_1_spec(spec: DecoderSpec, scale_factor: int = 8) -> DecoderSpec:
    """What a Llama 3.1 decoder of these sizes is made of."""
    return replace(spec, rope=partial(spec.rope, scale_factor=scale_factor))


llama3_1, lora_llama3_1 = component_builders("llama3_1", "Llama 3.1", llama3_1_spec, module=__name__, source=SOURCE)
llama3_mlp = gated_mlp
