"""Losses on preferences (DPO, RSO, IPO, SimPO, ORPO, KTO) and on sampled answers (PPO, GRPO and its relatives)."""

from torchtune.rlhf.loss.dpo import DPOLoss, IPOLoss, KTOLoss, ORPOLoss, PreferenceLoss, RSOLoss, SimPOLoss
from torchtune.rlhf.loss.ppo import GroupPolicyLoss, PPOLoss

__all__ = [
    "DPOLoss",
    "GroupPolicyLoss",
    "IPOLoss",
    "KTOLoss",
    "ORPOLoss",
    "PPOLoss",
    "PreferenceLoss",
    "RSOLoss",
    "SimPOLoss",
]
