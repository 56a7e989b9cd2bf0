"""Llama 3.3."""

from torchtune.models._builders import builder_names
from torchtune.models.llama3_3 import _model_builders
from torchtune.models.llama3_3._model_builders import *

__all__ = [*builder_names(vars(_model_builders))]
