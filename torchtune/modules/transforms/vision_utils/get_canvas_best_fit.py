"""The grid of tiles that an image is put on."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def get_canvas_best_fit(
    image: torch.Tensor, possible_resolutions: torch.Tensor, resize_to_max_canvas: bool
) -> tuple[int, int]:
    """The canvas, height and width in pixels, on which an image is distorted and padded least.

    Args:
        image: ``[..., h, w]``.
        possible_resolutions: canvases in pixels, ``[n, 2]``, height first.
        resize_to_max_canvas: True takes the canvas on which the image gets largest; False the one on which it is
            enlarged least, and where it fits on none, made smaller least.
    """
    height, width = image.shape[-2:]
    return best_canvas(height, width, possible_resolutions.tolist(), resize_to_max_canvas)


def best_canvas(
    height: int, width: int, resolutions: Iterable[tuple[int, int]], resize_to_max_canvas: bool = False
) -> tuple[int, int]:
    """As :func:`get_canvas_best_fit`, from the size of the image; of equal canvases the smallest."""
    scales = {(h, w): min(h / height, w / width) for h, w in resolutions}
    enlarging = [scale for scale in scales.values() if scale >= 1]
    if enlarging:
        wanted = max(enlarging) if resize_to_max_canvas else min(enlarging)
    else:
        wanted = max(scales.values())
    return min(
        (canvas for canvas, scale in scales.items() if scale == wanted), key=lambda canvas: canvas[0] * canvas[1]
    )


def find_supported_resolutions(max_num_tiles: int, tile_size: int) -> list[tuple[int, int]]:
    """All canvases of at most ``max_num_tiles`` tiles, height and width in pixels, those of most tiles first.

    Args:
        max_num_tiles: most tiles of a canvas.
        tile_size: pixels of a tile's side.
    """
    return [
        (rows * tile_size, tiles // rows * tile_size)
        for tiles in range(max_num_tiles, 0, -1)
        for rows in range(1, tiles + 1)
        if tiles % rows == 0
    ]
