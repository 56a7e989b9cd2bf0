"""Mistral: models, classifiers, reward models, tokenizer."""

from torchtune.models._builders import builder_names
from torchtune.models.mistral import _model_builders
from torchtune.models.mistral._component_builders import (
    lora_mistral,
    lora_mistral_classifier,
    mistral,
    mistral_classifier,
)
from torchtune.models.mistral._model_builders import *
from torchtune.models.mistral._model_builders import mistral_tokenizer as mistral_tokenizer
from torchtune.models.mistral._model_builders import tekken_tokenizer as tekken_tokenizer
from torchtune.models.mistral._prompt_template import MistralChatTemplate
from torchtune.models.mistral._tokenizer import MistralTokenizer

__all__ = [
    *builder_names(vars(_model_builders)),
    "MistralChatTemplate",
    "MistralTokenizer",
    "lora_mistral",
    "lora_mistral_classifier",
    "mistral",
    "mistral_classifier",
]
