"""CLIP's image transform: images of any size to tiles of one size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from torchtune.modules.transforms.vision_utils.get_canvas_best_fit import best_canvas, find_supported_resolutions
from torchtune.modules.transforms.vision_utils.resize_with_pad import interpolation, resize, resize_with_pad
from torchtune.modules.transforms.vision_utils.tile_crop import tile_crop

if TYPE_CHECKING:
    import PIL.Image


def image_size(image: Any) -> tuple[int, int]:
    """Height and width of a PIL image or a tensor ``[c, h, w]``."""
    height, width = image.shape[-2:] if isinstance(image, torch.Tensor) else (image.height, image.width)
    return height, width


def image_to_tensor(image: Any) -> torch.Tensor:
    """A PIL image, or a tensor ``[c, h, w]`` of bytes or floats, as floats from 0 to 1."""
    if isinstance(image, torch.Tensor):
        return image.float() if image.is_floating_point() else image / 255.0
    rgb = image.convert("RGB")
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)
    return pixels.permute(2, 0, 1) / 255.0


class CLIPImageTransform:
    """Puts an image on the grid of tiles that fits it best, fills the rest with zeros, and cuts the tiles out.

    Needs Pillow and torch only. The steps are those of Llama 3.2 Vision's image processor.

    Args:
        image_mean: of each channel, taken off; None for no normalization.
        image_std: of each channel, divided by.
        possible_resolutions: canvases in pixels, height and width, multiples of ``tile_size``; None for all of up to
            ``max_num_tiles`` tiles.
        tile_size: pixels of a tile's side.
        max_num_tiles: most tiles of an image; not needed with ``possible_resolutions``.
        dtype: of the tiles.
        resample: how to resize: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"nearest-exact"``.
        resize_to_max_canvas: True enlarges images as far as the canvases allow; False up to one tile.

    Raises:
        ValueError: if only one of mean and std is given, there is nothing to take canvases from, or ``resample`` has no
            such value.
    """

    antialias = True

    def __init__(
        self,
        *,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        possible_resolutions: list[tuple[int, int]] | None = None,
        tile_size: int = 224,
        max_num_tiles: int | None = 4,
        dtype: torch.dtype = torch.bfloat16,
        resample: str = "bilinear",
        resize_to_max_canvas: bool = False,
    ) -> None:
        if (image_mean is None) != (image_std is None):
            raise ValueError(
                f"image_mean and image_std go together; found image_mean={image_mean}, image_std={image_std}"
            )
        if not possible_resolutions and not max_num_tiles:
            raise ValueError("Either possible_resolutions or max_num_tiles must be given")
        interpolation(resample)
        self.possible_resolutions = [
            (int(height), int(width))
            for height, width in possible_resolutions or find_supported_resolutions(max_num_tiles or 0, tile_size)
        ]
        self.tile_size, self.dtype, self.resample = tile_size, dtype, resample
        self.image_mean, self.image_std = image_mean, image_std
        self.resize_to_max_canvas = resize_to_max_canvas
        self.max_size = None if resize_to_max_canvas else tile_size

    def canvas(self, image: Any) -> tuple[int, int]:
        """How many rows and columns of tiles an image gets.

        Args:
            image: a PIL image, or a tensor ``[c, h, w]``.
        """
        best = best_canvas(*image_size(image), self.possible_resolutions, self.resize_to_max_canvas)
        return best[0] // self.tile_size, best[1] // self.tile_size

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """The pixels as the model takes them, with CLIP's mean and deviation taken out, in the transform's dtype.

        Args:
            pixels: ``[c, h, w]``, from 0 to 1.
        """
        if self.image_mean is not None:
            pixels = (pixels - pixels.new_tensor(self.image_mean)[:, None, None]) / pixels.new_tensor(self.image_std)[
                :, None, None
            ]
        return pixels.to(self.dtype)

    def thumbnail(self, image: PIL.Image.Image | torch.Tensor) -> torch.Tensor:
        """The whole image on one tile, stretched: ``[1, c, tile_size, tile_size]``.

        Args:
            image: a PIL image, or a tensor ``[c, h, w]``.
        """
        size = (self.tile_size, self.tile_size)
        return self.normalized(resize(image_to_tensor(image), size, self.resample, self.antialias))[None]

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample, its PIL image or tensor ``[c, h, w]`` as tiles ``[n_tiles, c, tile_size, tile_size]``.

        ``aspect_ratio`` ``[2]`` holds rows and columns of tiles. ``inference`` makes no difference here.
        """
        image = sample["image"]
        rows, columns = self.canvas(image)
        target = (rows * self.tile_size, columns * self.tile_size)
        pixels = resize_with_pad(image_to_tensor(image), target, self.resample, self.max_size, self.antialias)
        tiles = tile_crop(self.normalized(pixels), self.tile_size)
        return {**sample, "image": tiles, "aspect_ratio": torch.tensor([rows, columns])}
