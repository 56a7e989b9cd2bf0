"""CLIP's image transform, called with an image rather than a sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from torchtune.models.clip import _transform

if TYPE_CHECKING:
    import PIL.Image


class CLIPImageTransform(_transform.CLIPImageTransform):
    """Image to tiles, in float32. The arguments are those of :class:`torchtune.models.clip.CLIPImageTransform`.

    Args:
        image_mean: of each channel, taken off; None for no normalization.
        image_std: of each channel, divided by.
        possible_resolutions: canvases in pixels; None for all of up to ``max_num_tiles`` tiles.
        tile_size: pixels of a tile's side.
        max_num_tiles: most tiles of an image.
        resample: how to resize.
        resize_to_max_canvas: enlarge images as far as the canvases allow.
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
        """Tiles of one image.

        Args:
            image: a PIL image, or a tensor ``[c, h, w]``.
            **kwargs: given back as they are.

        Returns:
            ``image`` ``[n_tiles, c, tile_size, tile_size]``, ``aspect_ratio`` ``[2]``, and ``kwargs``.
        """
        return super().__call__({"image": image, **kwargs})
