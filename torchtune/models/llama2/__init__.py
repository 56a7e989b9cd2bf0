"""Llama 2: models, classifiers, reward models, tokenizer."""

from torchtune.models._builders import builder_names
from torchtune.models.llama2 import _model_builders
from torchtune.models.llama2._component_builders import llama2, llama2_classifier, lora_llama2, lora_llama2_classifier
from torchtune.models.llama2._model_builders import *
from torchtune.models.llama2._model_builders import llama2_tokenizer as llama2_tokenizer
from torchtune.models.llama2._prompt_template import Llama2ChatTemplate
from torchtune.models.llama2._tokenizer import Llama2Tokenizer

__all__ = [
    *builder_names(vars(_model_builders)),
    "Llama2ChatTemplate",
    "Llama2Tokenizer",
    "llama2",
    "llama2_classifier",
    "lora_llama2",
    "lora_llama2_classifier",
]
