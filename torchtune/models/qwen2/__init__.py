"""Qwen2: models, tokenizer and weight conversion."""

from torchtune.models._builders import builder_names
from torchtune.models.qwen2 import _model_builders
from torchtune.models.qwen2._component_builders import lora_qwen2, qwen2
from torchtune.models.qwen2._convert_weights import qwen2_hf_to_tune, qwen2_tune_to_hf
from torchtune.models.qwen2._model_builders import *
from torchtune.models.qwen2._model_builders import qwen2_tokenizer as qwen2_tokenizer
from torchtune.models.qwen2._positional_embeddings import Qwen2RotaryPositionalEmbeddings
from torchtune.models.qwen2._tokenizer import Qwen2Tokenizer

__all__ = [
    *builder_names(vars(_model_builders)),
    "Qwen2RotaryPositionalEmbeddings",
    "Qwen2Tokenizer",
    "lora_qwen2",
    "qwen2",
    "qwen2_hf_to_tune",
    "qwen2_tune_to_hf",
]
