"""Gemma 2: models and tokenizer."""

from torchtune.models._builders import builder_names
from torchtune.models.gemma import GemmaTokenizer, gemma_tokenizer
from torchtune.models.gemma2 import _model_builders
from torchtune.models.gemma2._component_builders import gemma2, lora_gemma2
from torchtune.models.gemma2._model_builders import *

__all__ = [*builder_names(vars(_model_builders)), "GemmaTokenizer", "gemma2", "gemma_tokenizer", "lora_gemma2"]
