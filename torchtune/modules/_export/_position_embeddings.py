"""Positional embeddings of tiles without loops over the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _tile_places(aspect_ratio: Tensor, n_tiles: int, max_num_tiles: int) -> tuple[Tensor, Tensor]:
    """Index of each tile in a table ``[max * max]``, and whether it is one of the image's, both ``[b, n_tiles]``."""
    rows, columns = aspect_ratio[:, :1], aspect_ratio[:, 1:]
    tile = torch.arange(n_tiles, device=aspect_ratio.device).unsqueeze(0)
    place = (tile // columns) * max_num_tiles + tile % columns
    return place.clamp(max=max_num_tiles**2 - 1), tile < rows * columns


class TilePositionalEmbedding(nn.Module):
    """Add to each token a learned vector of its tile's place in the image, through a gate that starts closed.

    Args:
        max_num_tiles (int): most tiles per side.
        embed_dim (int): size ``d`` of a token.
    """

    def __init__(self, max_num_tiles: int, embed_dim: int) -> None:
        super().__init__()
        self.max_num_tiles = max_num_tiles
        self.embed_dim = embed_dim
        self.embedding = nn.Parameter(embed_dim**-0.5 * torch.randn(max_num_tiles, max_num_tiles, 1, embed_dim))
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, aspect_ratio: Tensor) -> Tensor:
        """Add the vectors; padding tiles get none.

        Args:
            x (Tensor): ``[b * n_imgs, n_tiles, n_tokens, d]``.
            aspect_ratio (Tensor): tiles of each image as (rows, columns), ``[b * n_imgs, 2]``.

        Returns:
            Tensor: the same shape.
        """
        place, real = _tile_places(aspect_ratio, x.shape[1], self.max_num_tiles)
        vectors = self.embedding.flatten(0, 1)[place]  # [b, n_tiles, 1, d]
        return x + vectors * real[:, :, None, None] * self.gate.tanh()


class TiledTokenPositionalEmbedding(nn.Module):
    """Add to each token a learned vector of its place in the tile, and one of its place in the whole image.

    Args:
        max_num_tiles (int): most tiles per side.
        embed_dim (int): size ``d`` of a token.
        tile_size (int): side of a tile in pixels.
        patch_size (int): side of a patch in pixels.
    """

    def __init__(self, max_num_tiles: int, embed_dim: int, tile_size: int, patch_size: int) -> None:
        super().__init__()
        tokens = (tile_size // patch_size) ** 2 + 1
        scale = embed_dim**-0.5
        self.max_num_tiles = max_num_tiles
        self.local_token_positional_embedding = nn.Parameter(scale * torch.randn(tokens, embed_dim))
        self.global_token_positional_embedding = nn.Parameter(
            scale * torch.randn(max_num_tiles, max_num_tiles, tokens, embed_dim)
        )
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, aspect_ratio: Tensor) -> Tensor:
        """Add the vectors; padding tiles get the first only.

        Args:
            x (Tensor): ``[b * n_imgs, n_tiles, n_tokens, d]``.
            aspect_ratio (Tensor): tiles of each image as (rows, columns), ``[b * n_imgs, 2]``.

        Returns:
            Tensor: the same shape.
        """
        place, real = _tile_places(aspect_ratio, x.shape[1], self.max_num_tiles)
        gate = self.gate.tanh()
        vectors = self.global_token_positional_embedding.flatten(0, 1)[place]  # [b, n_tiles, n_tokens, d]
        return x + self.local_token_positional_embedding * (1 - gate) + vectors * real[:, :, None, None] * gate


def _replace(model: nn.Module, class_name: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace, in place, submodules of this class by what ``make`` gives, with their weights."""
    for name, child in model.named_children():
        if type(child).__name__ == class_name:
            with torch.device("meta"):
                new = make(child)
            new.load_state_dict(child.state_dict(), assign=True)
            setattr(model, name, new.train(child.training))
        else:
            _replace(child, class_name, make)
    return model


def replace_tile_positional_embedding(model: nn.Module) -> nn.Module:
    """Replace every ``TilePositionalEmbedding`` by the one here.

    Args:
        model (nn.Module): changed in place.

    Returns:
        nn.Module: the model.
    """

    def make(old: nn.Module) -> nn.Module:
        max_num_tiles, _, _, embed_dim = old.embedding.shape  # type: ignore[union-attr, misc]
        return TilePositionalEmbedding(max_num_tiles, embed_dim)

    return _replace(model, "TilePositionalEmbedding", make)


def replace_tiled_token_positional_embedding(model: nn.Module) -> nn.Module:
    """Replace every ``TiledTokenPositionalEmbedding`` by the one here.

    Args:
        model (nn.Module): changed in place.

    Returns:
        nn.Module: the model.
    """

    def make(old: nn.Module) -> nn.Module:
        max_num_tiles, _, tokens, embed_dim = old.global_token_positional_embedding.shape  # type: ignore[union-attr, misc]
        side = round((tokens - 1) ** 0.5)
        return TiledTokenPositionalEmbedding(max_num_tiles, embed_dim, tile_size=side, patch_size=1)

    return _replace(model, "TiledTokenPositionalEmbedding", make)
