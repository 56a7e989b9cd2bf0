"""Learning from preferences and rewards: log-probabilities, advantages, and in :mod:`torchtune.rlhf.loss` the losses."""

from torchtune.rlhf._prompts import PromptDataset, prompt_dataset
from torchtune.rlhf._types import ChosenRejectedOutputs, PPOStats, Trajectory
from torchtune.rlhf.rewards import (
    estimate_advantages,
    get_reward_penalty_mask,
    get_rewards_ppo,
    masked_mean,
    masked_sum,
    masked_var,
    whiten,
)
from torchtune.rlhf.sequence_processing import (
    batched_logits_to_logprobs,
    get_batch_log_probs,
    logits_to_logprobs,
    truncate_sequence_at_first_stop_token,
    truncate_sequence_for_logprobs,
)

__all__ = [
    "ChosenRejectedOutputs",
    "PPOStats",
    "PromptDataset",
    "Trajectory",
    "batched_logits_to_logprobs",
    "estimate_advantages",
    "get_batch_log_probs",
    "get_reward_penalty_mask",
    "get_rewards_ppo",
    "logits_to_logprobs",
    "masked_mean",
    "masked_sum",
    "masked_var",
    "prompt_dataset",
    "truncate_sequence_at_first_stop_token",
    "truncate_sequence_for_logprobs",
    "whiten",
]
