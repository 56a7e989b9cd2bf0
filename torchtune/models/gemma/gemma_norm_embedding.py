"""Gemma's token embedding."""

from __future__ import annotations

import torch
from torch import nn


class GemmaNormEmbeddings(nn.Embedding):
    """Token embedding multiplied by the root of its size (https://arxiv.org/abs/2403.08295)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look up and scale: ``[b, s] -> [b, s, d]``. The root is rounded to the dtype of the weights."""
        vectors = super().forward(x)
        return vectors * torch.tensor(self.embedding_dim**0.5, dtype=vectors.dtype, device=vectors.device)
