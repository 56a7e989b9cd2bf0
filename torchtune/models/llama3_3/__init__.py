"""Llama 3.3."""

from torchtune.models.llama3_3 import _model_builders
from torchtune.models.llama3_3._model_builders import *

__all__ = [*_model_builders.__all__]
