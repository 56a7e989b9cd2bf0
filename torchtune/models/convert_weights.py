"""Public functions that convert weights to and from other layouts: Llama's (Llama, Mistral, Gemma, SmolLM 2), Meta's, PEFT's.

Those of other families are in the families' folders.
"""

from __future__ import annotations

from torchtune.models._convert import UnexpectedKey, get_mapped_key, weight_converters
from torchtune.models._key_maps import GENERIC_HF, GENERIC_META, REWARD_HF
from torchtune.models._peft import (
    peft_to_tune_adapter_weights,
    tune_to_peft_adapter_config,
    tune_to_peft_adapter_weights,
)

hf_to_tune, tune_to_hf = weight_converters(
    "", "a Hugging Face checkpoint of the Llama layout", GENERIC_HF, module=__name__
)
meta_to_tune, tune_to_meta = weight_converters(
    "", "a checkpoint in Meta's own Llama layout", GENERIC_META, module=__name__, other="meta", sizes=False
)
# A bias of the score is left out.
reward_hf_to_tune, reward_tune_to_hf = weight_converters(
    "reward_", "a Hugging Face sequence classifier with one score (a reward model)", REWARD_HF, module=__name__
)

__all__ = [
    "UnexpectedKey",
    "get_mapped_key",
    "hf_to_tune",
    "meta_to_tune",
    "peft_to_tune_adapter_weights",
    "reward_hf_to_tune",
    "reward_tune_to_hf",
    "tune_to_hf",
    "tune_to_meta",
    "tune_to_peft_adapter_config",
    "tune_to_peft_adapter_weights",
]
