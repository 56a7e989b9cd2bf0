"""A learned gate that starts closed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TanhGate(nn.Module):
    """Multiply by the hyperbolic tangent of one learned number, 0 at first (Flamingo, https://arxiv.org/abs/2204.14198)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the input: ``[...] -> [...]``."""
        return x * self.scale.tanh()
