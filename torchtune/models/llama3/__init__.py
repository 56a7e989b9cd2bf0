"""Llama 3: models, tokenizer, tensor-parallel plan."""

from torchtune.models._builders import builder_names
from torchtune.models.llama3 import _model_builders
from torchtune.models.llama3._component_builders import llama3, lora_llama3
from torchtune.models.llama3._model_builders import *
from torchtune.models.llama3._model_builders import llama3_tokenizer as llama3_tokenizer
from torchtune.models.llama3._parallelism import base_llama_tp_plan
from torchtune.models.llama3._tokenizer import Llama3Tokenizer

__all__ = [*builder_names(vars(_model_builders)), "Llama3Tokenizer", "base_llama_tp_plan", "llama3", "lora_llama3"]
