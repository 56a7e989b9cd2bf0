"""Phi-3: models, tokenizer and weight conversion."""

from torchtune.models._builders import builder_names
from torchtune.models.phi3 import _model_builders
from torchtune.models.phi3._component_builders import lora_phi3, phi3
from torchtune.models.phi3._convert_weights import phi3_hf_to_tune, phi3_tune_to_hf
from torchtune.models.phi3._model_builders import *
from torchtune.models.phi3._model_builders import phi3_mini_tokenizer as phi3_mini_tokenizer
from torchtune.models.phi3._position_embeddings import Phi3RotaryPositionalEmbeddings
from torchtune.models.phi3._tokenizer import Phi3MiniTokenizer

__all__ = [
    *builder_names(vars(_model_builders)),
    "Phi3MiniTokenizer",
    "Phi3RotaryPositionalEmbeddings",
    "lora_phi3",
    "phi3",
    "phi3_hf_to_tune",
    "phi3_tune_to_hf",
]
