"""Qwen2.5: models and tokenizer."""

from torchtune.models.qwen2_5 import _model_builders
from torchtune.models.qwen2_5._model_builders import *
from torchtune.models.qwen2_5._tokenizer import Qwen2_5Tokenizer
from torchtune.models.qwen2_5._tokenizer_builders import qwen2_5_tokenizer

__all__ = [*_model_builders.__all__, "Qwen2_5Tokenizer", "qwen2_5_tokenizer"]
