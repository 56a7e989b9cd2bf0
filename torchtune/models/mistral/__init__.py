"""Mistral: models, classifiers, reward models, tokenizer."""

from torchtune.models.mistral._component_builders import (
    lora_mistral,
    lora_mistral_classifier,
    mistral,
    mistral_classifier,
)
from torchtune.models.mistral._model_builders import (
    lora_ministral_8b,
    lora_mistral_7b,
    lora_mistral_nemo_12b,
    lora_mistral_reward_7b,
    lora_mistral_small_24b,
    ministral_8b,
    mistral_7b,
    mistral_nemo_12b,
    mistral_reward_7b,
    mistral_small_24b,
    qlora_ministral_8b,
    qlora_mistral_7b,
    qlora_mistral_nemo_12b,
    qlora_mistral_reward_7b,
    qlora_mistral_small_24b,
)
from torchtune.models.mistral._prompt_template import MistralChatTemplate
from torchtune.models.mistral._tokenizer import MistralTokenizer
from torchtune.models.mistral._tokenizer_builders import mistral_tokenizer, tekken_tokenizer

__all__ = [
    "MistralChatTemplate",
    "MistralTokenizer",
    "lora_ministral_8b",
    "lora_mistral",
    "lora_mistral_7b",
    "lora_mistral_classifier",
    "lora_mistral_nemo_12b",
    "lora_mistral_reward_7b",
    "lora_mistral_small_24b",
    "ministral_8b",
    "mistral",
    "mistral_7b",
    "mistral_classifier",
    "mistral_nemo_12b",
    "mistral_reward_7b",
    "mistral_small_24b",
    "mistral_tokenizer",
    "qlora_ministral_8b",
    "qlora_mistral_7b",
    "qlora_mistral_nemo_12b",
    "qlora_mistral_reward_7b",
    "qlora_mistral_small_24b",
    "tekken_tokenizer",
]
