"""Qwen3 weights: as Qwen2's, and the norms of q and k."""

from __future__ import annotations

from torchtune.models._key_maps import QWEN3_HF
from torchtune.models.qwen2._convert_weights import qwen_converters

qwen3_hf_to_tune, qwen3_tune_to_hf = qwen_converters("qwen3", "Qwen3", QWEN3_HF, module=__name__, writes_head=True)
