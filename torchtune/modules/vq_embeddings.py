"""Vector-quantized embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VectorQuantizedEmbeddings(nn.Module):
    """A codebook: vectors become the nearest of its entries (VQ-VAE, https://arxiv.org/abs/1711.00937).

    Args:
        num_embeddings (int): entries ``n``.
        embedding_dim (int): size ``d`` of an entry.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.embedding = nn.Parameter(torch.empty(num_embeddings, embedding_dim))
        nn.init.uniform_(self.embedding, -1 / num_embeddings, 1 / num_embeddings)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest entries ``[b, s, d]`` and their indexes ``[b, s]``; in training the gradient passes through to ``z``.

        Args:
            z (Tensor): ``[b, s, d]``.

        Raises:
            ValueError: if the last dimension isn't ``embedding_dim``.
        """
        if z.shape[-1] != self.embedding_dim:
            raise ValueError(f"Expected vectors of size embedding_dim={self.embedding_dim}, got {tuple(z.shape)}")
        flat = z.reshape(-1, self.embedding_dim)
        distances = self.embedding.square().sum(1) - 2 * flat @ self.embedding.t()
        token_ids = distances.argmin(dim=1).view(z.shape[:-1])
        quantized = self.decode(token_ids)
        if self.training:
            quantized = z + (quantized - z).detach()
        return quantized, token_ids

    def extra_repr(self) -> str:
        """Sizes, for ``repr``."""
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"

    def decode(self, token_ids: Tensor) -> Tensor:
        """The entries ``[b, s, d]`` of these indexes.

        Args:
            token_ids (Tensor): ``[b, s]``.
        """
        return F.embedding(token_ids, self.embedding)
