"""Llama 3.2: small Llama 3.1 models, further stretched, whose output layer is the embedding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torchtune.models._builders import component_builders, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models.llama3._component_builders import DEFAULTS, SIZES
from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE

SOURCE = "https://huggingface.co/meta-llama/Llama-3.2-1B (model card)"


@spec_function(
    f"{SIZES} scale_factor tie_word_embeddings", **DEFAULTS | {"rope": Llama3ScaledRoPE, "tie_word_embeddings": True}
)
def llama3_2_spec(spec: DecoderSpec, scale_factor: int = 32) -> DecoderSpec:
    """What a Llama 3.2 decoder of these sizes is made of."""
    return replace(spec, rope=partial(spec.rope, scale_factor=scale_factor))


llama3_2, lora_llama3_2 = component_builders("llama3_2", "Llama 3.2", llama3_2_spec, module=__name__, source=SOURCE)
