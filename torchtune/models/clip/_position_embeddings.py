"""Positional embeddings of image patches and of image tiles.

An image is cut into tiles, a tile into patches; patches of a tile and its CLS token are tokens. ``aspect_ratio`` says how many
tiles an image has in height and width; the rest of its tiles is padding and gets no tile embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _tokens_per_tile(tile_size: int, patch_size: int) -> int:
    return (tile_size // patch_size) ** 2 + 1


def _by_image(grid: Tensor, aspect_ratio: Tensor, num_tiles: int) -> Tensor:
    """Rows of a grid of tiles ``[max, max, n, d]`` in the order of each image's tiles, ``[b, num_tiles, n, d]``.

    Without a loop over images, so that ``torch.export`` can trace it.
    """
    rows, columns = aspect_ratio[:, :1], aspect_ratio[:, 1:].clamp(min=1)
    tile = torch.arange(num_tiles, device=aspect_ratio.device).unsqueeze(0)
    place = (tile // columns) * grid.shape[0] + tile % columns
    real = (tile < rows * columns)[:, :, None, None]
    return grid.flatten(0, 1)[place.clamp(max=grid.shape[0] ** 2 - 1)] * real


class TokenPositionalEmbedding(nn.Module):
    """A learned vector for each token of a tile, for images of one tile.

    Args:
        embed_dim (int): size of a token's vector.
        tile_size (int): pixels of a tile's side.
        patch_size (int): pixels of a patch's side.
    """

    def __init__(self, embed_dim: int, tile_size: int, patch_size: int) -> None:
        super().__init__()
        tokens = _tokens_per_tile(tile_size, patch_size)
        self.positional_embedding = nn.Parameter(embed_dim**-0.5 * torch.randn(tokens, embed_dim))

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Add the embedding to the tokens of tiles: ``[..., n, d] -> [..., n, d]``. The aspect ratio is not used."""
        return x + self.positional_embedding


class TiledTokenPositionalEmbedding(nn.Module):
    """A learned vector for each token of a tile, and another for each token of each tile, weighed by a learned gate.

    Args:
        max_num_tiles (int): most tiles in height and in width.
        embed_dim (int): size of a token's vector.
        tile_size (int): pixels of a tile's side.
        patch_size (int): pixels of a patch's side.
    """

    def __init__(self, max_num_tiles: int, embed_dim: int, tile_size: int, patch_size: int) -> None:
        super().__init__()
        tokens, scale = _tokens_per_tile(tile_size, patch_size), embed_dim**-0.5
        self.local_token_positional_embedding = nn.Parameter(scale * torch.randn(tokens, embed_dim))
        self.global_token_positional_embedding = nn.Parameter(
            scale * torch.randn(max_num_tiles, max_num_tiles, tokens, embed_dim)
        )
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, aspect_ratio: Tensor) -> Tensor:
        """Add both embeddings, t tiles with n tokens each: ``[b, t, n, d] -> [b, t, n, d]``.

        Args:
            aspect_ratio (Tensor): tiles in height and width of each image, ``[b, 2]``.
        """
        gate = self.gate.tanh()
        of_tiles = _by_image(self.global_token_positional_embedding, aspect_ratio, x.shape[1])
        return x + self.local_token_positional_embedding * (1 - gate) + of_tiles * gate


class TilePositionalEmbedding(nn.Module):
    """A learned vector for each tile, weighed by a learned gate.

    Args:
        max_num_tiles (int): most tiles in height and in width.
        embed_dim (int): size of a token's vector.
    """

    def __init__(self, max_num_tiles: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(embed_dim**-0.5 * torch.randn(max_num_tiles, max_num_tiles, 1, embed_dim))
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, aspect_ratio: Tensor) -> Tensor:
        """Add the embedding, t tiles with n tokens each: ``[b, t, n, d] -> [b, t, n, d]``.

        Args:
            aspect_ratio (Tensor): tiles in height and width of each image, ``[b, 2]``.
        """
        return x + _by_image(self.embedding, aspect_ratio, x.shape[1]) * self.gate.tanh()
