"""SmolLM 2."""

from torchtune.models._builders import builder_names
from torchtune.models.smol import _model_builders
from torchtune.models.smol._component_builders import smollm2
from torchtune.models.smol._model_builders import *

__all__ = [*builder_names(vars(_model_builders)), "smollm2"]
