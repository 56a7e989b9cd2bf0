"""Cutting of an image into tiles."""

from __future__ import annotations

import torch


def tile_crop(image: torch.Tensor, tile_size: int) -> torch.Tensor:
    """The tiles of an image, row by row, ``[n_tiles, c, tile_size, tile_size]``.

    Args:
        image: ``[c, h, w]``, with sides that are multiples of ``tile_size``.
        tile_size: pixels of a tile's side.

    Raises:
        ValueError: if a side is no multiple of ``tile_size``.
    """
    channels, height, width = image.shape
    if height % tile_size or width % tile_size:
        raise ValueError(f"Sides of {height} and {width} pixels are no multiples of tile_size={tile_size}")
    tiles = image.unflatten(2, (-1, tile_size)).unflatten(1, (-1, tile_size))
    return tiles.permute(1, 3, 0, 2, 4).reshape(-1, channels, tile_size, tile_size)
