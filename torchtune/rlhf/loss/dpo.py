"""Losses on preferences. Each says what it needs, so that one recipe can use them all."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchtune.rlhf._types import ChosenRejectedOutputs

Losses = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class PreferenceLoss(nn.Module):
    """A loss on the log-probabilities of a chosen and a rejected answer, and their implicit rewards."""

    #: True if log-probabilities are to be means over an answer's tokens, not sums.
    uses_average_logps = False
    #: True if ``forward`` takes ``kl``, estimated on prompts with answers to other prompts.
    uses_kl = False

    @property
    def is_reference_free(self) -> bool:
        """True if no reference model is needed."""
        return False

    def forward(
        self, chosen_rejected_policy: ChosenRejectedOutputs, chosen_rejected_reference: ChosenRejectedOutputs | None
    ) -> Losses:
        """The losses, rewards of the chosen and rewards of the rejected answers, each ``[b]``.

        Args:
            chosen_rejected_policy: what the policy says: log-probabilities of chosen and rejected answers ``[b]``.
            chosen_rejected_reference: what the reference model says; None for losses without one.
        """
        raise NotImplementedError


def _margins(policy: ChosenRejectedOutputs, reference: ChosenRejectedOutputs) -> tuple[torch.Tensor, torch.Tensor]:
    """By how much the policy finds each answer likelier than the reference does: of the chosen, of the rejected."""
    return policy.chosen_logps - reference.chosen_logps, policy.rejected_logps - reference.rejected_logps


def _smoothed(logits: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Binary cross-entropy of "the chosen one is better", wrong with probability ``label_smoothing``."""
    return -F.logsigmoid(logits) * (1 - label_smoothing) - F.logsigmoid(-logits) * label_smoothing


class DPOLoss(PreferenceLoss):
    """Direct preference optimization (Rafailov et al., https://arxiv.org/abs/2305.18290).

    Args:
        beta: how strongly the policy is held to the reference, usually 0.1 to 0.5.
        label_smoothing: probability that a preference is the wrong way round
            (conservative DPO, https://ericmitchell.ai/cdpo.pdf).
    """

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.beta = beta
        self.label_smoothing = label_smoothing

    def forward(self, policy_inputs: ChosenRejectedOutputs, reference_inputs: ChosenRejectedOutputs) -> Losses:  # type: ignore[override]
        chosen, rejected = _margins(policy_inputs, reference_inputs)
        losses = _smoothed(self.beta * (chosen - rejected), self.label_smoothing)
        return losses, self.beta * chosen.detach(), self.beta * rejected.detach()


class RSOLoss(PreferenceLoss):
    """Hinge loss of statistical rejection sampling optimization (Liu et al., https://arxiv.org/abs/2309.06657).

    Args:
        gamma: scale of the margin: a pair counts until the policy's margin is ``1 / gamma``.
    """

    def __init__(self, gamma: float = 0.1) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, policy_inputs: ChosenRejectedOutputs, reference_inputs: ChosenRejectedOutputs) -> Losses:  # type: ignore[override]
        chosen, rejected = _margins(policy_inputs, reference_inputs)
        losses = F.relu(1 - self.gamma * (chosen - rejected))
        return losses, self.gamma * chosen.detach(), self.gamma * rejected.detach()


class IPOLoss(PreferenceLoss):
    """Identity preference optimization (Azar et al., https://arxiv.org/abs/2310.12036), on mean log-probabilities.

    Args:
        beta: the margin aimed at is ``1 / (2 * beta)``.
    """

    uses_average_logps = True

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, policy_inputs: ChosenRejectedOutputs, reference_inputs: ChosenRejectedOutputs) -> Losses:  # type: ignore[override]
        chosen, rejected = _margins(policy_inputs, reference_inputs)
        losses = (chosen - rejected - 1 / (2 * self.beta)) ** 2
        return losses, self.beta * chosen.detach(), self.beta * rejected.detach()


class SimPOLoss(PreferenceLoss):
    """Simple preference optimization (Meng et al., https://arxiv.org/abs/2405.14734): mean log-probabilities, no reference.

    Args:
        beta: scale of the rewards, usually 2.0 to 2.5.
        gamma: margin that the chosen reward is to have.
        label_smoothing: probability that a preference is the wrong way round.
    """

    uses_average_logps = True

    def __init__(self, beta: float = 2.0, gamma: float = 0.5, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.beta = beta
        self.gamma = gamma
        self.label_smoothing = label_smoothing

    @property
    def is_reference_free(self) -> bool:
        return True

    def forward(self, policy_inputs: Any, reference_inputs: Any = None) -> Losses:
        """Loss and rewards of each pair ``[b]``; two tensors, of chosen and rejected log-probabilities, are deprecated."""
        if isinstance(policy_inputs, torch.Tensor):
            warnings.warn(
                "SimPOLoss of two tensors is deprecated; pass a ChosenRejectedOutputs", DeprecationWarning, stacklevel=2
            )
            policy_inputs = ChosenRejectedOutputs(policy_inputs, reference_inputs, policy_inputs, reference_inputs)
        chosen, rejected = policy_inputs.chosen_logps, policy_inputs.rejected_logps
        losses = _smoothed(self.beta * (chosen - rejected) - self.gamma, self.label_smoothing)
        return losses, self.beta * chosen.detach(), self.beta * rejected.detach()


class ORPOLoss(PreferenceLoss):
    """Odds ratio preference optimization (Hong et al., https://arxiv.org/abs/2403.07691): supervised, and no reference.

    Args:
        beta: weight of the odds ratio beside the chosen answer's own loss (lambda in the paper).
    """

    uses_average_logps = True

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__()
        self.beta = beta

    @property
    def is_reference_free(self) -> bool:
        return True

    def forward(self, policy_inputs: ChosenRejectedOutputs, reference_inputs: Any = None) -> Losses:
        chosen, rejected = policy_inputs.chosen_logps, policy_inputs.rejected_logps
        log_odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
        losses = -chosen - self.beta * F.logsigmoid(log_odds)
        return losses, self.beta * chosen.detach(), self.beta * rejected.detach()


class KTOLoss(PreferenceLoss):
    """Kahneman-Tversky optimization (Ethayarajh et al., https://arxiv.org/abs/2402.01306), each pair as two judgements.

    Args:
        beta: how strongly the policy is held to the reference.
        desirable_weight: weight of the chosen answers.
        undesirable_weight: weight of the rejected ones.
    """

    uses_kl = True

    def __init__(self, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.desirable_weight = desirable_weight
        self.undesirable_weight = undesirable_weight

    def forward(  # type: ignore[override]
        self,
        policy_inputs: ChosenRejectedOutputs,
        reference_inputs: ChosenRejectedOutputs,
        kl: torch.Tensor | None = None,
    ) -> Losses:
        """Loss and rewards of each pair ``[b]``.

        Args:
            policy_inputs: what the policy says.
            reference_inputs: what the reference model says.
            kl: KL divergence of the policy from the reference, a scalar; None is 0. Below 0 it counts as 0.
        """
        chosen, rejected = _margins(policy_inputs, reference_inputs)
        zero = torch.zeros_like(chosen[:1]) if kl is None else kl.detach().clamp(min=0)
        losses = (
            self.desirable_weight * (1 - torch.sigmoid(self.beta * (chosen - zero)))
            + self.undesirable_weight * (1 - torch.sigmoid(self.beta * (zero - rejected)))
        ) / 2
        return losses, self.beta * chosen.detach(), self.beta * rejected.detach()


def _log_of_rest(logps: torch.Tensor) -> torch.Tensor:
    """``log(1 - exp(logps))``, stable at both ends; finite where an answer is certain."""
    logps = logps.clamp(max=-torch.finfo(logps.dtype).eps)
    log_half = -0.6931472
    near, far = torch.log(-torch.expm1(logps)), torch.log1p(-torch.exp(logps.clamp(max=log_half)))
    return torch.where(logps > log_half, near, far)
