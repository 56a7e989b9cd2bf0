"""Llama 3.1: models and their positional embedding."""

from torchtune.models._builders import builder_names
from torchtune.models.llama3_1 import _model_builders
from torchtune.models.llama3_1._component_builders import llama3_1, lora_llama3_1
from torchtune.models.llama3_1._model_builders import *
from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE

__all__ = [*builder_names(vars(_model_builders)), "Llama3ScaledRoPE", "llama3_1", "lora_llama3_1"]
