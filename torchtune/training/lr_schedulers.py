"""Learning rate schedules."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchtune.training.memory import OptimizerInBackwardWrapper, optimizers_of


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, last_epoch: int = -1
) -> LambdaLR:
    """A rate that rises linearly from 0, then falls along a cosine; step it after each optimizer step.

    Args:
        optimizer: whose rate is scheduled.
        num_warmup_steps: steps of the rise.
        num_training_steps: steps in all; the rate is 0 there for ``num_cycles`` 0.5.
        num_cycles: waves of the cosine; 0.5 is one fall.
        last_epoch: number of the last step when going on, -1 at the start.
    """

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return step / max(1, num_warmup_steps)
        progress = (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 2.0 * num_cycles * progress)))

    return LambdaLR(optimizer, factor, last_epoch)


def get_lr(optimizer: Optimizer | OptimizerInBackwardWrapper) -> float:
    """The learning rate of an optimizer whose parameter groups have the same one.

    Args:
        optimizer: the optimizer, or those of the backward pass.

    Raises:
        RuntimeError: if they differ.
    """
    rates = {float(group["lr"]) for opt in optimizers_of(optimizer).values() for group in opt.param_groups}
    if len(rates) != 1:
        raise RuntimeError(f"Parameter groups with different learning rates have no single one: found {sorted(rates)}")
    return rates.pop()
