"""An output layer that uses the weights of another module."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """A linear layer that is handed its weight: a module only so that hooks and parallel plans can find it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Project ``x``: ``[..., d] -> [..., v]``.

        Args:
            weight (Tensor): ``[v, d]``.
        """
        return F.linear(x, weight)


class TiedLinear:
    """A linear layer whose weight is another module's, such as the token embedding's.

    It is no module, so that the weight shows up once in parameters and state dicts.

    Args:
        tied_module (nn.Module): holds the weight ``[v, d]``.

    Raises:
        AttributeError: if ``tied_module`` has no ``weight``.
    """

    def __init__(self, tied_module: nn.Module) -> None:
        if not hasattr(tied_module, "weight"):
            raise AttributeError(
                f"{type(tied_module).__name__} has no `weight` to tie to; pass a module such as nn.Embedding"
            )
        self.tied_module = tied_module
        self.linear = Linear()

    @property
    def weight(self) -> Tensor:
        """The tied weight ``[v, d]``, looked up anew each time."""
        return self.tied_module.weight  # type: ignore[return-value]

    def __call__(self, x: Tensor) -> Tensor:
        """``[..., d] -> [..., v]``."""
        return self.linear(x, self.tied_module.weight)
