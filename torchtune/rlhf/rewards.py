"""Rewards, advantages, and the masked statistics that they need. Masks are True for what counts."""

from __future__ import annotations

from collections.abc import Callable

import torch

_EPS = 1e-8
Total = Callable[[torch.Tensor], torch.Tensor]


def _here(x: torch.Tensor) -> torch.Tensor:
    return x


def get_reward_penalty_mask(
    padding_masks: torch.Tensor,
    seq_lens: torch.Tensor,
    penalise_no_eos: bool = True,
    min_response_length: int | None = None,
) -> torch.Tensor:
    """Which responses ``[b]`` get a fixed penalty in place of their reward.

    Args:
        padding_masks: ``[b, s]``, True after the end of a response.
        seq_lens: length of each response ``[b]``.
        penalise_no_eos: those without an end: without any padding.
        min_response_length: those shorter than this.
    """
    mask = torch.zeros_like(seq_lens, dtype=torch.bool)
    if penalise_no_eos:
        mask = mask | ~padding_masks.any(-1)
    if min_response_length is not None:
        mask = mask | (seq_lens < min_response_length)
    return mask


def get_rewards_ppo(
    scores: torch.Tensor,
    logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    kl_coeff: float,
    valid_score_idxs: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The reward of each token (a penalty for leaving the reference policy, and at the end the score), KL estimates,
    and their part of the rewards, each ``[b, r]``.

    Args:
        scores: one of each response ``[b]``.
        logprobs: of the response ``[b, r]``.
        ref_logprobs: the same under the reference policy ``[b, r]``.
        kl_coeff: weight of the penalty.
        valid_score_idxs: where each row's score goes ``[b]``. Default: the last position.
    """
    kl = logprobs - ref_logprobs
    kl_reward = -kl_coeff * kl
    last = torch.full_like(scores, logprobs.shape[1] - 1, dtype=torch.long)
    ends = last if valid_score_idxs is None else valid_score_idxs
    return kl_reward.scatter_add(1, ends.unsqueeze(1), scores.unsqueeze(1)), kl, kl_reward


def masked_sum(x: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """The sum of the values that the mask selects, over one dimension or (``dim=None``) all.

    Args:
        x: values.
        mask: True for the values that count; the shape of ``x``.
        dim: the dimension; None is all.
    """
    return torch.where(mask, x, torch.zeros_like(x)).sum(dim=dim)


def masked_mean(x: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """The mean of the values that the mask selects; 0 where it selects none. See :func:`masked_sum`."""
    return masked_sum(x, mask, dim) / (mask.sum(dim=dim) + _EPS)


def masked_var(centered_values: torch.Tensor, mask: torch.Tensor, unbiased: bool = True) -> torch.Tensor:
    """The variance of the values that the mask selects; 0 for one value or none.

    Args:
        centered_values: values less their mean.
        mask: the same shape.
        unbiased: divide by ``n - 1`` in place of ``n``.
    """
    variance = masked_mean(centered_values**2, mask)
    if unbiased:
        count = mask.sum()
        variance = variance * count / (count - 1).clamp(min=1)
    return variance


def whiten(
    x: torch.Tensor, mask: torch.Tensor | None = None, shift_mean: bool = True, *, total: Total = _here
) -> torch.Tensor:
    """The values, scaled to variance 1.

    Args:
        x: values.
        mask: those that mean and variance are taken of; the others are changed in the same way.
        shift_mean: True keeps the mean (torchtune's meaning, the opposite of TRL's), False makes it 0.
        total: makes a sum that of all ranks, so that mean and variance are those of all ranks' values. Default: of these.
    """
    eps = 0.0 if mask is None else _EPS
    counted = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    count = total(counted.sum())
    mean = total(masked_sum(x, counted)) / (count + eps)
    var = total(masked_sum((x - mean) ** 2, counted)) / (count + eps)
    var = var * count / (count - 1).clamp(min=1)
    whitened = (x - mean) * torch.rsqrt(var + _EPS)
    return whitened + mean if shift_mean else whitened


def estimate_advantages(
    values: torch.Tensor,
    rewards: torch.Tensor,
    gamma: float,
    lmbda: float,
    masks: torch.Tensor | None = None,
    *,
    total: Total = _here,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The advantages of generalized advantage estimation (Schulman et al., https://arxiv.org/abs/1506.02438), whitened,
    and the returns, each ``[b, r]``.

    Args:
        values: estimate of each position ``[b, r]``.
        rewards: of each position ``[b, r]``.
        gamma: discount.
        lmbda: 0 trusts the values, 1 the rewards.
        masks: ``[b, r]``, True for the positions of the response; others get no advantage.
        total: see :func:`whiten`.
    """
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    surprises = rewards + gamma * following - values
    advantages = torch.empty_like(values)
    carried = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        carried = surprises[:, t] + gamma * lmbda * carried
        advantages[:, t] = carried
    returns = advantages + values
    whitened = whiten(advantages, mask=masks, total=total)
    return whitened if masks is None else whitened.masked_fill(~masks, 0.0), returns
