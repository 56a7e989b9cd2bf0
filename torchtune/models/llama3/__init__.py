"""Llama 3: models, tokenizer, tensor-parallel plan."""

from torchtune.models.llama3 import _model_builders
from torchtune.models.llama3._component_builders import llama3, lora_llama3
from torchtune.models.llama3._model_builders import *
from torchtune.models.llama3._parallelism import base_llama_tp_plan
from torchtune.models.llama3._tokenizer import Llama3Tokenizer
from torchtune.models.llama3._tokenizer_builders import llama3_tokenizer

__all__ = [
    *_model_builders.__all__,
    "Llama3Tokenizer",
    "base_llama_tp_plan",
    "llama3",
    "llama3_tokenizer",
    "lora_llama3",
]
