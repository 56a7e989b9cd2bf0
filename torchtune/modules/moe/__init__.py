"""Mixture of experts."""

from torchtune.modules.moe.experts import GroupedExperts, LoRAGroupedExperts, clamped_swiglu
from torchtune.modules.moe.moe import MoE, SoftmaxTopKRouter, TokenChoiceTopKRouter

__all__ = [
    "GroupedExperts",
    "LoRAGroupedExperts",
    "MoE",
    "SoftmaxTopKRouter",
    "TokenChoiceTopKRouter",
    "clamped_swiglu",
]
