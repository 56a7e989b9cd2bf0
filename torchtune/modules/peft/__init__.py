"""Parameter-efficient fine-tuning: LoRA, DoRA, QAT LoRA, and what checkpoints need of them."""

from __future__ import annotations

from typing import Any

from torchtune.modules.peft._utils import (
    AdapterModule,
    disable_adapter,
    get_adapter_params,
    get_adapter_state_dict,
    get_lora_module_names,
    get_merged_lora_ckpt,
    set_trainable_params,
    validate_missing_and_unexpected_for_lora,
)
from torchtune.modules.peft.dora import DoRALinear
from torchtune.modules.peft.lora import LoRALinear, QATLoRALinear, TrainableParams

__all__ = [
    "AdapterModule",
    "DoRALinear",
    "LoRALinear",
    "QATLoRALinear",
    "TrainableParams",
    "disable_adapter",
    "get_adapter_params",
    "get_adapter_state_dict",
    "get_lora_module_names",
    "get_merged_lora_ckpt",
    "set_trainable_params",
    "validate_missing_and_unexpected_for_lora",
]


def __getattr__(name: str) -> Any:
    from torchtune.modules._deprecated import find

    return find(__name__, name)
