"""Phi-4: model and tokenizer."""

from torchtune.models.phi4._model_builders import (
    lora_phi4_14b,
    phi4_14b,
    qlora_phi4_14b,
)

__all__ = [
    "lora_phi4_14b",
    "phi4_14b",
    "qlora_phi4_14b",
]
