"""What a group of sampled answers is, and what a step on it reports."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class GRPOTrajectory(NamedTuple):
    """Groups of answers to a batch of prompts, ``b`` answers in all. See :class:`~torchtune.rlhf.Trajectory`.

    Args:
        advantages: of each answer, relative to its group ``[b]``.
        answers: the right answers.
    """

    query_responses: torch.Tensor = None  # type: ignore[assignment]
    logprobs: torch.Tensor = None  # type: ignore[assignment]
    ref_logprobs: torch.Tensor = None  # type: ignore[assignment]
    advantages: torch.Tensor = None  # type: ignore[assignment]
    masks: torch.Tensor = None  # type: ignore[assignment]
    position_ids: torch.Tensor = None  # type: ignore[assignment]
    response_padding_masks: torch.Tensor = None  # type: ignore[assignment]
    seq_lens: torch.Tensor = None  # type: ignore[assignment]
    answers: str = None  # type: ignore[assignment]


class GRPOStats(NamedTuple):
    """What a step of GRPO reports, each a scalar. See :class:`~torchtune.rlhf.PPOStats`.

    Args:
        kl_loss: mean KL divergence from the reference, before the coefficient.
        metadata: what else there is to log.
    """

    loss: torch.Tensor
    policy_loss: torch.Tensor
    kl_loss: torch.Tensor
    ratios: torch.Tensor
    clipfrac: torch.Tensor
    approx_policy_kls: torch.Tensor
    metadata: dict[str, Any] | None = None
