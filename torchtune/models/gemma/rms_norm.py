"""Gemma's RMSNorm."""

from __future__ import annotations

import torch
from torch import nn

from torchtune.modules import _functional


class GemmaRMSNorm(nn.Module):
    """RMSNorm whose learned scale starts at zero and multiplies by ``1 + scale``, all of it in float32.

    Args:
        dim (int): size of the last dimension.
        eps (float): added to the mean square.

    Source: https://arxiv.org/abs/2403.08295
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension: ``[..., dim] -> [..., dim]``, in the dtype of ``x``."""
        return _functional.rms_norm(x, 1.0 + self.scale.float(), self.eps)
