"""Gemma: models and tokenizer."""

from torchtune.models._builders import builder_names
from torchtune.models.gemma import _model_builders
from torchtune.models.gemma._component_builders import gemma, lora_gemma
from torchtune.models.gemma._model_builders import *
from torchtune.models.gemma._model_builders import gemma_tokenizer as gemma_tokenizer
from torchtune.models.gemma._tokenizer import GemmaTokenizer

__all__ = [*builder_names(vars(_model_builders)), "GemmaTokenizer", "gemma", "lora_gemma"]
