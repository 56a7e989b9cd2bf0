"""Qwen3 weights: as Qwen2's, and the norms of q and k."""

from __future__ import annotations

from torchtune.models._convert import weight_converters
from torchtune.models._key_maps import QWEN3_HF

qwen3_hf_to_tune, qwen3_tune_to_hf = weight_converters(
    "qwen3_", "a Hugging Face Qwen3 checkpoint", QWEN3_HF, module=__name__, tied=True, writes_head=True
)
