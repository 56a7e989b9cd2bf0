"""What is handed around between sampling, losses and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch


class Trajectory(NamedTuple):
    """What PPO samples and keeps of a batch; ``s`` is the length of query and response, ``r`` that of the response.

    Args:
        query_responses: ids ``[b, s]``.
        logprobs: of the response under the policy that sampled it ``[b, r]``.
        ref_logprobs: the same under the reference policy ``[b, r]``.
        values: estimates of the value model ``[b, r]``.
        masks: attention mask ``[b, s, s]``.
        position_ids: ``[b, s]``.
        response_padding_masks: ``[b, r]``, True where the response is over.
        value_padding_masks: ``[b, r]``, as before, but False at the position after the response's end.
        value_seq_idxs: index of the last value of each row ``[b]``.
        scores: of the reward model ``[b]``.
        seq_lens: index of the last token of each response ``[b]``.
    """

    query_responses: torch.Tensor
    logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    masks: torch.Tensor
    position_ids: torch.Tensor
    response_padding_masks: torch.Tensor
    value_padding_masks: torch.Tensor
    value_seq_idxs: torch.Tensor
    scores: torch.Tensor
    seq_lens: torch.Tensor


class PPOStats(NamedTuple):
    """What a step of PPO reports, each a scalar.

    Args:
        loss: the whole loss.
        policy_loss: its policy part.
        value_loss: its value part, before the coefficient.
        ratios: mean of the probability ratios.
        clipfrac: share of tokens whose ratio was clipped.
        approx_policy_kls: estimate of the KL divergence from the policy that sampled.
    """

    loss: torch.Tensor
    policy_loss: torch.Tensor
    value_loss: torch.Tensor
    ratios: torch.Tensor
    clipfrac: torch.Tensor
    approx_policy_kls: torch.Tensor


@dataclass
class ChosenRejectedOutputs:
    """What a model says of a batch of preferences.

    Args:
        chosen_logps: log-probabilities of the chosen answers ``[b]``.
        rejected_logps: those of the rejected ones ``[b]``.
        chosen_logits: logits of the chosen answers, or their mean.
        rejected_logits: those of the rejected ones, or their mean.
    """

    chosen_logps: torch.Tensor
    rejected_logps: torch.Tensor
    chosen_logits: torch.Tensor
    rejected_logits: torch.Tensor
