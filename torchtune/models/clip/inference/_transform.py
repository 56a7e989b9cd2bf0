"""CLIP's image transform, called with an image rather than a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from torchtune.models.clip import _transform

if TYPE_CHECKING:
    import PIL.Image


class CLIPImageTransform(_transform.CLIPImageTransform):
    """Image to tiles, in float32; for its arguments see :class:`torchtune.models.clip.CLIPImageTransform`.

    Args:
        antialias: smooth when making an image smaller.
    """

    def __init__(
        self,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        possible_resolutions: list[tuple[int, int]] | None = None,
        tile_size: int = 224,
        max_num_tiles: int | None = 4,
        resample: str = "bilinear",
        resize_to_max_canvas: bool = False,
        antialias: bool = True,
    ) -> None:
        super().__init__(
            image_mean=image_mean,
            image_std=image_std,
            possible_resolutions=possible_resolutions,
            tile_size=tile_size,
            max_num_tiles=max_num_tiles,
            dtype=torch.float32,
            resample=resample,
            resize_to_max_canvas=resize_to_max_canvas,
        )
        self.antialias = antialias

    def __call__(self, *, image: PIL.Image.Image | torch.Tensor, **kwargs: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Tiles ``[n_tiles, c, tile_size, tile_size]`` of one image, ``aspect_ratio`` ``[2]``, and ``kwargs`` as they are."""
        return super().__call__({"image": image, **kwargs})
