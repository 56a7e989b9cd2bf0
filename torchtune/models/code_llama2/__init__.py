"""Code Llama."""

from torchtune.models._builders import builder_names
from torchtune.models.code_llama2 import _model_builders
from torchtune.models.code_llama2._model_builders import *

__all__ = [*builder_names(vars(_model_builders))]
