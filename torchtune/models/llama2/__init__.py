"""Llama 2: models, classifiers, reward models, tokenizer."""

from torchtune.models.llama2._component_builders import (
    llama2,
    llama2_classifier,
    lora_llama2,
    lora_llama2_classifier,
)
from torchtune.models.llama2._model_builders import (
    llama2_7b,
    llama2_13b,
    llama2_70b,
    llama2_reward_7b,
    lora_llama2_7b,
    lora_llama2_13b,
    lora_llama2_70b,
    lora_llama2_reward_7b,
    qlora_llama2_7b,
    qlora_llama2_13b,
    qlora_llama2_70b,
    qlora_llama2_reward_7b,
)

__all__ = [
    "llama2",
    "llama2_13b",
    "llama2_70b",
    "llama2_7b",
    "llama2_classifier",
    "llama2_reward_7b",
    "lora_llama2",
    "lora_llama2_13b",
    "lora_llama2_70b",
    "lora_llama2_7b",
    "lora_llama2_classifier",
    "lora_llama2_reward_7b",
    "qlora_llama2_13b",
    "qlora_llama2_70b",
    "qlora_llama2_7b",
    "qlora_llama2_reward_7b",
]
