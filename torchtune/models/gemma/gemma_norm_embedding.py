"""Gemma's token embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class GemmaNormEmbeddings(nn.Embedding):
    """Token embedding multiplied by the root of its size (https://arxiv.org/abs/2403.08295).

    Args:
        num_embeddings (int): number of tokens.
        embedding_dim (int): size of a vector.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_embeddings, embedding_dim, *args, **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look up and scale: ``[b, s] -> [b, s, d]``. The root is rounded to the dtype of the weights."""
        vectors = super().forward(x)
        return vectors * torch.tensor(self.embedding_dim**0.5, dtype=vectors.dtype, device=vectors.device)
