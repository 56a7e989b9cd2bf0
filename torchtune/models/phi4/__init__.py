"""Phi-4: model and tokenizer."""

from torchtune.models._builders import builder_names
from torchtune.models.phi4 import _model_builders
from torchtune.models.phi4._model_builders import *
from torchtune.models.phi4._model_builders import phi4_tokenizer as phi4_tokenizer
from torchtune.models.phi4._tokenizer import Phi4Tokenizer

__all__ = [*builder_names(vars(_model_builders)), "Phi4Tokenizer"]
