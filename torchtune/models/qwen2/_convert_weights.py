"""Weights of Qwen2: rows of q and k stay as they are; tied checkpoints may repeat the embedding as lm_head."""

from __future__ import annotations

from torchtune.models._convert import weight_converters
from torchtune.models._key_maps import QWEN2_HF

qwen2_hf_to_tune, qwen2_tune_to_hf = weight_converters(
    "qwen2_", "a Hugging Face Qwen2 checkpoint", QWEN2_HF, module=__name__, tied=True
)
