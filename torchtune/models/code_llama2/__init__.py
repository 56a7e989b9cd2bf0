"""Code Llama."""

from torchtune.models.code_llama2 import _model_builders
from torchtune.models.code_llama2._model_builders import *

__all__ = [*_model_builders.__all__]
