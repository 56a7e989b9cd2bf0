"""What recipes expect of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cross_entropy_sum(logits: Tensor, labels: Tensor, ignore_index: int, weights: Tensor | None = None) -> Tensor:
    """Sum of the cross entropy of logits ``[n, v]`` and labels ``[n]``, in fp32, each times its token's weight."""
    if weights is None:
        return F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="sum")
    losses = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none")
    return (losses * weights.float()).sum()


def total_weight(labels: Tensor, ignore_index: int, weights: Tensor | None = None) -> Tensor:
    """What a sum of losses is divided by: the number of tokens that count, or the sum of their weights; 1 if that is 0."""
    counts = labels != ignore_index
    if weights is None:
        return counts.sum().clamp(min=1)
    total = (weights.float() * counts).sum()
    return torch.where(total > 0, total, torch.ones_like(total))


class _Loss:
    """Hooks that every loss may override."""

    def apply_compile_strategy(self, *args: Any, **kwargs: Any) -> Any:
        """The loss itself, with the part that gains by it compiled; the arguments are those of ``torch.compile``."""
        self.forward: Any = torch.compile(self.forward, *args, **kwargs)  # type: ignore[has-type]
        return self

    def set_model_output(self, model: nn.Module) -> None:
        """Make a model return what the loss takes.

        Args:
            model (nn.Module): changed in place.
        """


class SFTLoss(_Loss, ABC):
    """A loss of a model's outputs and target tokens."""

    @property
    def tp_requires_loss_parallel_ctx_manager(self) -> bool:
        """Whether, under tensor parallelism, loss and backward must run in ``loss_parallel()``."""
        return False

    def patch_tp_plan(self, tp_plan: Any) -> Any:
        """The tensor-parallel plan, adapted to what the loss takes.

        Args:
            tp_plan (Any): module name to parallel style.
        """
        return tp_plan

    @abstractmethod
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar. Where it can weigh tokens, it takes ``weights`` ``[b, s]`` by keyword.

        Args:
            outputs (Tensor): what the model returned.
            targets (Tensor): ``[b, s]`` token ids.
        """


class RLLoss(_Loss, ABC):
    """A loss of policies' outputs and advantages."""

    @abstractmethod
    def forward(
        self,
        pi_old_outputs: Tensor,
        pi_outputs: Tensor,
        ref_outputs: Tensor,
        advantages: Tensor,
        padding_masks: Tensor | None = None,
    ) -> Any:
        """The loss, and what else there is to log.

        Args:
            pi_old_outputs (Tensor): of the policy that sampled.
            pi_outputs (Tensor): of the policy that is trained.
            ref_outputs (Tensor): of the reference policy.
            advantages (Tensor): of the sampled sequences.
            padding_masks (Tensor | None): True where a token counts.
        """
