"""Root mean square norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchtune.modules import _functional


class RMSNorm(nn.Module):
    """Root mean square norm, computed in fp32 (https://arxiv.org/abs/1910.07467).

    Args:
        dim (int): size of the last dimension.
        eps (float): added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.normalized_shape = (dim,)
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension: ``[..., dim] -> [..., dim]``, in the dtype of ``x``."""
        return _functional.rms_norm(x, self.scale, self.eps)


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Root mean square norm without weights, computed in fp32: ``[..., d] -> [..., d]``, in the dtype of ``x``.

    Args:
        eps (float): added to the mean square.
    """
    return _functional.rms_norm(x, None, eps)
