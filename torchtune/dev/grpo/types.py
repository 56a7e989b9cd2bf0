"""What a group of sampled answers is, and what a step on it reports."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class GRPOTrajectory(NamedTuple):
    """Groups of answers to a batch of prompts, ``b`` answers in all, ``s`` tokens with the prompt, ``r`` without.

    Args:
        query_responses: ids ``[b, s]``.
        logprobs: of the response under the policy that sampled it ``[b, r]``.
        ref_logprobs: the same under the reference policy ``[b, r]``.
        advantages: of each answer, relative to its group ``[b]``.
        masks: attention mask ``[b, s, s]``.
        position_ids: ``[b, s]``.
        response_padding_masks: ``[b, r]``, True where the response is over.
        seq_lens: index of the last token of each response ``[b]``.
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
    """What a step of GRPO reports, each a scalar.

    Args:
        loss: the whole loss.
        policy_loss: the policy's part.
        kl_loss: mean KL divergence from the reference, before the coefficient.
        ratios: mean of the probability ratios.
        clipfrac: share of tokens whose ratio was clipped.
        approx_policy_kls: estimate of the KL divergence from the policy that sampled.
        metadata: what else there is to log.
    """

    loss: torch.Tensor
    policy_loss: torch.Tensor
    kl_loss: torch.Tensor
    ratios: torch.Tensor
    clipfrac: torch.Tensor
    approx_policy_kls: torch.Tensor
    metadata: dict[str, Any] | None = None
