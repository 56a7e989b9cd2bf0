"""An optimizer that steps each parameter as soon as its gradient is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


class OptimizerInBackward(Optimizer):
    """Step each parameter, and free its gradient, in the backward pass: gradients never exist all at once.

    Gradients can neither be accumulated nor clipped. There is one group per parameter; schedulers and state dicts see
    one ordinary optimizer.

    Args:
        params (Iterable[nn.Parameter]): the parameters to train.
        optimizer_cls (type[Optimizer]): the optimizer of each.
        **optimizer_kwargs (Any): its arguments.

    Raises:
        ValueError: if there are no parameters.
    """

    def __init__(self, params: Iterable[nn.Parameter], optimizer_cls: type[Optimizer], **optimizer_kwargs: Any) -> None:
        parameters = [p for p in params if p.requires_grad]
        if not parameters:
            raise ValueError("OptimizerInBackward got no parameters that require gradients")
        self._optimizers = [optimizer_cls([p], **optimizer_kwargs) for p in parameters]
        super().__init__([{"params": [p]} for p in parameters], self._optimizers[0].defaults)
        for optimizer, group in zip(self._optimizers, self.param_groups, strict=True):
            for key, value in optimizer.param_groups[0].items():
                group.setdefault(key, value)
        self._share()
        for parameter, optimizer in zip(parameters, self._optimizers, strict=True):
            parameter.register_post_accumulate_grad_hook(_StepAndFree(optimizer))

    def _share(self) -> None:
        """Let the inner optimizers work on this one's state and groups."""
        for optimizer, group in zip(self._optimizers, self.param_groups, strict=True):
            optimizer.state = self.state
            optimizer.param_groups = [group]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step the parameters that still have a gradient: after a backward pass, none.

        Args:
            closure (Callable[[], float] | None): ignored.
        """
        for optimizer in self._optimizers:
            optimizer.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned.

        Args:
            state_dict (dict[str, Any]): of an optimizer over the same parameters in the same order.

        Raises:
            ValueError: if it is of other parameters.
        """
        super().load_state_dict(state_dict)
        self._share()


class _StepAndFree:
    """Hook on a parameter whose gradient is complete."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def __call__(self, parameter: Tensor) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
