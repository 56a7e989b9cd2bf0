"""Qwen3: models and tokenizer."""

from torchtune.models._builders import builder_names
from torchtune.models.qwen3 import _model_builders
from torchtune.models.qwen3._component_builders import lora_qwen3, qwen3
from torchtune.models.qwen3._model_builders import *
from torchtune.models.qwen3._model_builders import qwen3_tokenizer as qwen3_tokenizer
from torchtune.models.qwen3._tokenizer import Qwen3Tokenizer

__all__ = [*builder_names(vars(_model_builders)), "Qwen3Tokenizer", "lora_qwen3", "qwen3"]
