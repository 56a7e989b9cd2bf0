"""Llama 3.2: the text models."""

from torchtune.models._builders import builder_names
from torchtune.models.llama3_2 import _model_builders
from torchtune.models.llama3_2._component_builders import llama3_2, lora_llama3_2
from torchtune.models.llama3_2._model_builders import *

__all__ = [*builder_names(vars(_model_builders)), "llama3_2", "lora_llama3_2"]
