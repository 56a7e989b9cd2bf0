"""What the loops of recipes share: the loss of a step, its gradients, when to save, a progress bar."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchtune.training._distributed import all_reduce_sum, get_world_size_and_rank, is_dtensor


def count_loss_tokens(
    labels: torch.Tensor, ignore_index: int = -100, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Number of labels that are trained, or the sum of their weights, as a tensor on their device.

    Args:
        labels: ``[b, s]``, as the loss gets them: label ``i`` is the token after token ``i``.
        ignore_index: label of what isn't trained.
        weights: factors on the labels' losses ``[b, s]``; such labels count as much as they weigh.
    """
    counts = labels != ignore_index
    return counts.sum() if weights is None else (counts * weights).sum()


@dataclass(frozen=True)
class StepLoss:
    """The loss of one optimizer step, over its micro-batches and all ranks.

    Args:
        loss: mean over the tokens, on every rank the same.
        num_tokens: how many there were.
        grad_scale: what gradients are to be multiplied by to be those of ``loss``.
    """

    loss: torch.Tensor
    num_tokens: torch.Tensor
    grad_scale: torch.Tensor


class LossAccumulator:
    """Normalizes by tokens: every trained token of a step weighs the same, in whichever micro-batch and rank it is.

    For each micro-batch ``add(loss, n).backward()``, then :meth:`finish`, and gradients are scaled by its ``grad_scale``.

    Args:
        device: where the sums are kept.
        group: ranks that share the data; None is all.
        grads_are_averaged: the ranks' gradients are averaged by FSDP or DDP, not added up.
        copies: ranks that hold the same tokens (those of tensor parallel), so that these are counted once.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        group: dist.ProcessGroup | None = None,
        grads_are_averaged: bool = True,
        copies: int = 1,
    ) -> None:
        self.device = torch.device(device)
        self.copies = copies
        self.group = group
        self.grads_are_averaged = grads_are_averaged
        self._reset()

    def _reset(self) -> None:
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, dtype=dtype, device=self.device)

    def add(self, loss: torch.Tensor, num_tokens: torch.Tensor | int) -> torch.Tensor:
        """The summed loss of a micro-batch, for ``backward()``; it is counted.

        Args:
            loss: its mean loss per token.
            num_tokens: its number of trained tokens; with 0 the loss counts as 0, even if it is NaN.
        """
        tokens = torch.as_tensor(num_tokens, device=loss.device)
        summed = torch.where(tokens > 0, loss, torch.zeros_like(loss)) * tokens
        self._sums += torch.stack([summed.detach(), tokens]).to(self._sums)
        return summed

    def add_normalized(self, loss: torch.Tensor, num_tokens: torch.Tensor | int) -> torch.Tensor:
        """The loss of a micro-batch that is a step of its own, scaled so that its gradients need no further factor.

        Args:
            loss: mean loss of the micro-batch, a scalar.
            num_tokens: labels that it is the mean of.
        """
        summed = self.add(loss, num_tokens)
        total = all_reduce_sum(torch.as_tensor(num_tokens, device=loss.device).clone(), self.group)
        return summed * (self._factor / torch.where(total > 0, total, 1))

    @property
    def _factor(self) -> int:
        return dist.get_world_size(self.group) if self.grads_are_averaged and dist.is_initialized() else 1

    def finish(self) -> StepLoss:
        """Sum up over ranks and start anew."""
        total = all_reduce_sum(self._sums, self.group)
        self._reset()
        tokens = torch.where(total[1] > 0, total[1], 1)
        loss, scale = (total[0] / tokens).float(), (self._factor / tokens).float()
        return StepLoss(loss=loss, num_tokens=total[1].long() // self.copies, grad_scale=scale)


@dataclass
class CheckpointSchedule:
    """When to save.

    Args:
        every_n_steps: optimizer steps between saves within an epoch; None for none.
        every_n_epochs: epochs between saves; None for the last only.
        total_epochs: epochs of the run.

    Raises:
        ValueError: if a number isn't positive.
    """

    every_n_steps: int | None = None
    every_n_epochs: int | None = 1
    total_epochs: int = 1

    def __post_init__(self) -> None:
        for name in ("every_n_steps", "every_n_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"save_{name} is {value}; expected a number from 1, or null")

    def after_step(self, steps_run: int) -> bool:
        """Whether to save after so many optimizer steps.

        Args:
            steps_run: optimizer steps of the run.
        """
        return self.every_n_steps is not None and steps_run % self.every_n_steps == 0

    def after_epoch(self, epoch: int) -> bool:
        """Whether to save after epoch number ``epoch`` (from 0); always after the last.

        Args:
            epoch: number of the epoch that has ended, from 0.
        """
        if epoch + 1 >= self.total_epochs:
            return True
        return self.every_n_epochs is not None and (epoch + 1) % self.every_n_epochs == 0


def progress_bar(total: int | None, initial: int = 0, desc: str = "", disable: bool = False) -> Any:
    """A ``tqdm`` bar that only rank 0 shows; where no terminal is, as in a log file, a line every ten seconds.

    Args:
        total: steps in all.
        initial: steps done before.
        desc: text before the bar.
        disable: show nothing.
    """
    from tqdm import tqdm

    _, rank = get_world_size_and_rank()
    options: dict[str, Any] = {"disable": disable or rank != 0, "mininterval": 0.1 if sys.stderr.isatty() else 10.0}
    return tqdm(total=total, initial=initial, desc=desc, dynamic_ncols=True, **options)


@torch.no_grad()
def scale_grads_(
    parameters: torch.Tensor | Iterable[torch.Tensor], scaler: torch.Tensor, foreach: bool | None = None
) -> None:
    """Multiply the gradients of parameters by a number, in place.

    Args:
        parameters: one or several; those without a gradient are passed over.
        scaler: a number as a tensor, on any device.
        foreach: False multiplies one by one; else all of a device and dtype at once.
    """
    if isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = defaultdict(list)
    for parameter in parameters:
        if (grad := parameter.grad) is not None:
            local = grad.to_local() if is_dtensor(grad) else grad
            groups[(local.device, local.dtype)].append(local)
    for (device, _), grads in groups.items():
        factor = scaler.to(device)
        if foreach is False:
            for grad in grads:
                grad.mul_(factor)
        else:
            torch._foreach_mul_(grads, factor)


@torch.no_grad()
def scale_grads(model: nn.Module, scaler: torch.Tensor) -> None:
    """Multiply all gradients of a model by a number, in place.

    Args:
        model: the model, sharded or not.
        scaler: a number as a tensor, on any device.
    """
    scale_grads_(model.parameters(), scaler)


@torch.no_grad()
def clip_grad_norm(parameters: torch.Tensor | Iterable[torch.Tensor], max_norm: float | None = None) -> torch.Tensor:
    """The 2-norm, in float32, of all ranks' gradients together; they are scaled down in place if it is over a limit.

    Args:
        parameters: one or several; those without a gradient are passed over.
        max_norm: the limit; None or infinity only measures.
    """
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    by_mesh: dict[Any, list[torch.Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            by_mesh[parameter.grad.device_mesh if is_dtensor(parameter.grad) else None].append(parameter.grad)
    if not by_mesh:
        return torch.tensor(0.0)
    norms = []
    for grads in by_mesh.values():
        norm = torch.nn.utils.get_total_norm(grads)
        norms.append((norm.full_tensor() if is_dtensor(norm) else norm).float())
    total = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    if max_norm is not None and max_norm != float("inf"):
        scale_grads_(parameters, (max_norm / (total + 1e-6)).clamp(max=1.0))
    return total
