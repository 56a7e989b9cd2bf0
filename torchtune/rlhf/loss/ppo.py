"""Losses on sampled answers: PPO, and the group-relative ones."""

from __future__ import annotations

import torch
from torch import nn

from torchtune.rlhf.rewards import masked_mean, masked_sum

Scalars = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
Maybe = torch.Tensor | None
#: Log-probabilities when sampled, now, and under the reference, and a mask.
Compared = tuple[torch.Tensor, torch.Tensor, Maybe, Maybe]


def _mean(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return x.mean() if mask is None else masked_mean(x, mask)


class PPOLoss(nn.Module):
    """Proximal policy optimization, clipped, with a clipped value loss (Schulman et al., https://arxiv.org/abs/1707.06347).

    Args:
        epsilon: the probability ratio counts within ``1 - epsilon`` to ``1 + epsilon``.
        value_clip_range: a value counts within this distance of what it was when sampled.
        value_coeff: weight of the value loss.
    """

    def __init__(self, epsilon: float = 0.1, value_clip_range: float = 0.2, value_coeff: float = 0.1) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.value_clip_range = value_clip_range
        self.value_coeff = value_coeff

    def forward(
        self,
        pi_old_logprobs: torch.Tensor,
        pi_logprobs: torch.Tensor,
        advantages: torch.Tensor,
        phi_old_values: torch.Tensor,
        phi_values: torch.Tensor,
        returns: torch.Tensor,
        padding_masks: torch.Tensor | None = None,
        value_padding_masks: torch.Tensor | None = None,
    ) -> Scalars:
        """The loss (with gradient) of sampled responses, policy loss, value loss, mean ratio, share of clipped tokens.

        Args:
            pi_old_logprobs: under the policy that sampled ``[b, r]``.
            pi_logprobs: under the policy now ``[b, r]``.
            advantages: ``[b, r]``.
            phi_old_values: values when sampled ``[b, r]``.
            phi_values: values now ``[b, r]``.
            returns: what the values should be ``[b, r]``.
            padding_masks: ``[b, r]``, True for tokens that count in the policy loss. Default: all.
            value_padding_masks: ``[b, r]``, True for values that count. Default: all.
        """
        ratios = torch.exp(pi_logprobs - pi_old_logprobs)
        gain, clipped_gain = ratios * advantages, ratios.clamp(1 - self.epsilon, 1 + self.epsilon) * advantages
        policy_loss = _mean(-torch.minimum(gain, clipped_gain), padding_masks)
        clipfrac = _mean((clipped_gain < gain).float(), padding_masks)
        near = torch.clamp(phi_values, phi_old_values - self.value_clip_range, phi_old_values + self.value_clip_range)
        errors = torch.maximum((phi_values - returns) ** 2, (near - returns) ** 2)
        value_loss = 0.5 * _mean(errors, value_padding_masks)
        loss = policy_loss + self.value_coeff * value_loss
        return loss, policy_loss.detach(), value_loss.detach(), ratios.mean().detach(), clipfrac.detach()


class GroupPolicyLoss(nn.Module):
    """The loss of group-relative policy optimization and its relatives, as values of a few settings.

    GRPO (https://arxiv.org/abs/2402.03300) is ``normalize="sequence"`` with ``kl_coeff``; DAPO
    (https://arxiv.org/abs/2503.14476) ``normalize="token"`` with a wider ``epsilon_high`` and no KL; Dr. GRPO
    (https://arxiv.org/abs/2503.20783) ``normalize="constant"``, with advantages that are not divided by their deviation.

    Args:
        epsilon: the probability ratio counts from ``1 - epsilon``; None does not clip.
        epsilon_high: and up to ``1 + epsilon_high``. Default: ``epsilon``.
        kl_coeff: weight of the KL divergence from the reference policy; with 0 none is needed.
        normalize: what the loss is a mean of: "sequence" (mean over each answer's tokens, then over answers), "token"
            (mean over all tokens), "constant" (sum over each answer's tokens, divided by ``max_tokens``, then the mean).
        max_tokens: for "constant": the most tokens an answer may have.

    Raises:
        ValueError: if ``normalize`` is none of these, or "constant" has no ``max_tokens``.
    """

    def __init__(
        self,
        epsilon: float | None = 0.2,
        epsilon_high: float | None = None,
        kl_coeff: float = 0.0,
        normalize: str = "sequence",
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        if normalize not in ("sequence", "token", "constant"):
            raise ValueError(f"normalize is {normalize!r}; expected 'sequence', 'token' or 'constant'")
        if normalize == "constant" and not max_tokens:
            raise ValueError(
                f"normalize: constant divides by max_tokens, which is {max_tokens}; set it to the most tokens that an "
                "answer may have"
            )
        self.epsilon = epsilon
        self.epsilon_high = epsilon if epsilon_high is None else epsilon_high
        self.kl_coeff = kl_coeff
        self.normalize = normalize
        self.max_tokens = max_tokens

    def weight(self, padding_masks: torch.Tensor) -> torch.Tensor:
        """How many answers or tokens a batch's loss is the mean of: its weight among other batches.

        Args:
            padding_masks: ``[b, s]``, True for tokens of answers.
        """
        if self.normalize == "token":
            return padding_masks.sum()
        return torch.tensor(padding_masks.shape[0], device=padding_masks.device)

    def forward(
        self,
        pi_old_logprobs: torch.Tensor,
        pi_logprobs: torch.Tensor,
        ref_logprobs: torch.Tensor | None,
        advantages: torch.Tensor,
        padding_masks: torch.Tensor | None = None,
    ) -> Scalars:
        """The loss (with gradient) of sampled answers, policy objective (its negative is the policy's part of the loss),
        KL divergence, mean ratio, share of clipped tokens.

        See :meth:`PPOLoss.forward`.

        Args:
            ref_logprobs: under the reference policy ``[b, r]``; None where ``kl_coeff`` is 0.
            advantages: of each answer ``[b]``.
        """
        old = pi_old_logprobs.detach()
        old, pi_logprobs, ref_logprobs, padding_masks = self._compared(old, pi_logprobs, ref_logprobs, padding_masks)
        advantages = advantages.unsqueeze(-1)
        ratios = torch.exp(pi_logprobs - old)
        gains, clipped = ratios * advantages, torch.zeros_like(ratios)
        if self.epsilon is not None and self.epsilon_high is not None:
            clipped_gains = ratios.clamp(1 - self.epsilon, 1 + self.epsilon_high) * advantages
            clipped = (clipped_gains < gains).float()
            gains = torch.minimum(gains, clipped_gains)
        kl = torch.zeros_like(gains) if ref_logprobs is None else kl_estimate(pi_logprobs, ref_logprobs)
        policy, kl_mean = self._reduce(gains, padding_masks), self._reduce(kl, padding_masks)
        loss = self.kl_coeff * kl_mean - policy
        clipfrac = _mean(clipped, padding_masks)
        return loss, policy.detach(), kl_mean.detach(), ratios.mean().detach(), clipfrac.detach()

    def _compared(self, old: torch.Tensor, new: torch.Tensor, ref: Maybe, mask: Maybe) -> Compared:
        """What ratio and divergence are of: each token's probability, or in subclasses another."""
        return old, new, ref, mask

    def _reduce(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if self.normalize == "token":
            return _mean(x, mask)
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        if self.normalize == "sequence":
            return masked_mean(x, mask, dim=-1).mean()
        return (masked_sum(x, mask, dim=-1) / (self.max_tokens or 1)).mean()

    def extra_repr(self) -> str:
        """The settings."""
        names = ("epsilon", "epsilon_high", "kl_coeff", "normalize")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def kl_estimate(pi_logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """KL divergence ``[b, r]`` of each token's policy from the reference: unbiased, never negative, of little variance.

    The k3 estimator of http://joschu.net/blog/kl-approx.html, of log-probabilities under the policy, which sampled.
    """
    log_ratio = ref_logprobs - pi_logprobs
    return torch.expm1(log_ratio) - log_ratio
