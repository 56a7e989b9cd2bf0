"""Mixture of experts."""

from torchtune.modules.moe.experts import GroupedExperts, LoRAGroupedExperts
from torchtune.modules.moe.moe import MoE, TokenChoiceTopKRouter

__all__ = ["GroupedExperts", "LoRAGroupedExperts", "MoE", "TokenChoiceTopKRouter"]
