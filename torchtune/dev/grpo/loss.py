"""torchtune's GRPO losses. New configs can say more with :class:`torchtune.rlhf.loss.GroupPolicyLoss`."""

from __future__ import annotations

import torch
from torch import nn

from torchtune.rlhf.loss.ppo import Compared, GroupPolicyLoss, Maybe, kl_estimate
from torchtune.rlhf.rewards import masked_mean, masked_sum
from torchtune.rlhf.sequence_processing import logits_to_logprobs


class GRPOLoss(GroupPolicyLoss):
    """The clipped loss, as a mean over all tokens of the batch.

    Args:
        epsilon: the probability ratio counts within ``1 - epsilon`` to ``1 + epsilon``.
        kl_coeff: weight of the KL divergence from the reference policy.
    """

    def __init__(self, epsilon: float = 0.1, kl_coeff: float = 0.1) -> None:
        super().__init__(epsilon=epsilon, kl_coeff=kl_coeff, normalize="token")


class GRPOSimpleLoss(GRPOLoss):
    """The loss where each answer is used for one step only: the ratio is 1, and only its gradient counts."""

    def _compared(self, old: torch.Tensor, new: torch.Tensor, ref: Maybe, mask: Maybe) -> Compared:
        return new.detach(), new, ref, mask


class GRPOCompletionLoss(GRPOLoss):
    """The clipped loss, and the KL divergence, with one ratio for each whole answer: that of its probabilities."""

    def _compared(self, old: torch.Tensor, new: torch.Tensor, ref: Maybe, mask: Maybe) -> Compared:
        mask = torch.ones_like(new, dtype=torch.bool) if mask is None else mask
        whole = [None if x is None else masked_sum(x, mask, dim=-1).unsqueeze(-1) for x in (old, new, ref)]
        return (*whole, None)  # type: ignore[return-value]

    def weight(self, padding_masks: torch.Tensor) -> torch.Tensor:
        """The number of answers."""
        return torch.tensor(padding_masks.shape[0], device=padding_masks.device)


class GRPOWithChunkedOutputLoss(nn.Module):
    """:class:`GRPOSimpleLoss` on logits that come in chunks of positions, for less memory.

    Args:
        num_output_chunks: how many chunks; recipes hand it to the model.
        epsilon: not used, as the ratio is 1.
        kl_coeff: weight of the KL divergence from the reference policy.
    """

    def __init__(self, num_output_chunks: int = 8, epsilon: float = 0.1, kl_coeff: float = 0.1) -> None:
        super().__init__()
        self.num_output_chunks = num_output_chunks
        self.epsilon = epsilon
        self.kl_coeff = kl_coeff

    def compute_per_token_quantities(
        self,
        pi_logits_chunk: torch.Tensor,
        targets_chunk: torch.Tensor,
        ref_logprobs_chunk: torch.Tensor,
        advantages: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, policy objective, KL divergence and log-probability of each token of a chunk, each ``[b, c]``.

        Args:
            pi_logits_chunk: ``[b, c, v]``.
            targets_chunk: ids ``[b, c]``.
            ref_logprobs_chunk: ``[b, c]``.
            advantages: ``[b]`` or ``[b, 1]``.
        """
        logprobs = logits_to_logprobs(pi_logits_chunk.float(), targets_chunk)
        policy = torch.exp(logprobs - logprobs.detach()) * advantages.view(-1, 1)
        kl = kl_estimate(logprobs, ref_logprobs_chunk)
        return self.kl_coeff * kl - policy, policy, kl, logprobs

    def forward(
        self,
        pi_logits: torch.Tensor | list[torch.Tensor],
        targets: torch.Tensor,
        ref_logprobs: torch.Tensor,
        advantages: torch.Tensor,
        padding_masks: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, policy objective, KL divergence, mean ratio (1), share of clipped tokens (0), log-probabilities ``[b, r]``.

        See :meth:`GroupPolicyLoss.forward`.

        Args:
            pi_logits: ``[b, r, v]``, or chunks of it along ``r``.
            targets: ids ``[b, r]``.
        """
        chunks = pi_logits if isinstance(pi_logits, list) else list(pi_logits.chunk(self.num_output_chunks, dim=1))
        sizes = [chunk.shape[1] for chunk in chunks]
        parts = [
            self.compute_per_token_quantities(logits, ids, ref, advantages)
            for logits, ids, ref in zip(chunks, targets.split(sizes, 1), ref_logprobs.split(sizes, 1), strict=True)
        ]
        losses, policy, kl, logprobs = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        mask = torch.ones_like(targets, dtype=torch.bool) if padding_masks is None else padding_masks
        loss, policy, kl = (masked_mean(x, mask) for x in (losses, policy, kl))
        one = torch.ones((), device=loss.device)
        return loss, policy.detach(), kl.detach(), one, torch.zeros_like(one), logprobs.detach()
