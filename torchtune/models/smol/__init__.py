"""SmolLM 2."""

from torchtune.models.smol._component_builders import smollm2
from torchtune.models.smol._model_builders import (
    smollm2_1_7b,
    smollm2_135m,
    smollm2_360m,
)

__all__ = [
    "smollm2",
    "smollm2_135m",
    "smollm2_1_7b",
    "smollm2_360m",
]
