"""Qwen2.5: models and tokenizer."""

from torchtune.models._builders import builder_names
from torchtune.models.qwen2_5 import _model_builders
from torchtune.models.qwen2_5._model_builders import *
from torchtune.models.qwen2_5._model_builders import qwen2_5_tokenizer as qwen2_5_tokenizer
from torchtune.models.qwen2_5._tokenizer import Qwen2_5Tokenizer

__all__ = [*builder_names(vars(_model_builders)), "Qwen2_5Tokenizer"]
