"""The size of an image on its canvas."""

from __future__ import annotations

import math


def get_inscribed_size(
    image_size: tuple[int, int], target_size: tuple[int, int], max_size: int | None
) -> tuple[int, int]:
    """The largest height and width, in pixels, of an image within a canvas that keeps its proportions.

    Args:
        image_size: height and width of the image in pixels.
        target_size: height and width of the canvas.
        max_size: no side is enlarged beyond this; None is up to the canvas.
    """
    limits = list(target_size)
    if max_size is not None:
        limits = [min(max(side, max_size), target) for side, target in zip(image_size, target_size, strict=True)]
    height, width = image_size
    if limits[1] / width < limits[0] / height:
        return min(math.floor(height * (limits[1] / width)) or 1, limits[0]), limits[1]
    return limits[0], min(math.floor(width * (limits[0] / height)) or 1, limits[1])
