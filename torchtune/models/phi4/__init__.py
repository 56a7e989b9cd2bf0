"""Phi-4: model and tokenizer."""

from torchtune.models.phi4._model_builders import (
    lora_phi4_14b,
    phi4_14b,
    qlora_phi4_14b,
)
from torchtune.models.phi4._tokenizer import Phi4Tokenizer
from torchtune.models.phi4._tokenizer_builders import phi4_tokenizer

__all__ = [
    "Phi4Tokenizer",
    "lora_phi4_14b",
    "phi4_14b",
    "phi4_tokenizer",
    "qlora_phi4_14b",
]
