"""Resizing of images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from torchtune.modules.transforms.vision_utils.get_inscribed_size import get_inscribed_size

_MODES = {"nearest": "nearest", "nearest-exact": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic"}


def interpolation(resample: Any) -> str:
    """torch's name of a way to resample, given by name or as torchvision's ``InterpolationMode``."""
    name = str(getattr(resample, "value", resample)).lower().replace("_", "-")
    if name not in _MODES:
        raise ValueError(f"resample must be one of {', '.join(_MODES)}; found {name!r}")
    return _MODES[name]


def resize(image: torch.Tensor, size: tuple[int, int], resample: Any, antialias: bool = True) -> torch.Tensor:
    """Resize ``[c, h, w]`` to ``size``; computed in float32, returned in the image's dtype."""
    mode = interpolation(resample)
    smooth: dict[str, Any] = {} if mode.startswith("nearest") else {"antialias": antialias, "align_corners": False}
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    resized = F.interpolate(image.float()[None], size=tuple(size), mode=mode, **smooth)[0]
    return resized.to(image.dtype) if image.is_floating_point() else resized.round().clamp(0, 255).to(image.dtype)


def resize_with_pad(
    image: torch.Tensor,
    target_size: tuple[int, int],
    resample: Any,
    max_size: int | None = None,
    antialias: bool = True,
) -> torch.Tensor:
    """The image ``[c, *target_size]``, resized to fit without distortion; the right and the bottom are filled with zeros.

    Args:
        image: ``[c, h, w]``.
        target_size: height and width of the canvas in pixels.
        resample: ``"bilinear"``, ``"bicubic"``, ``"nearest"``, ``"nearest-exact"``, or torchvision's enum of them.
        max_size: no side is enlarged beyond this; None is up to the canvas.
        antialias: smooth when making it smaller.

    Raises:
        ValueError: for another ``resample``.
    """
    height, width = image.shape[-2:]
    resized = resize(image, get_inscribed_size((height, width), target_size, max_size), resample, antialias)
    height, width = resized.shape[-2:]
    return F.pad(resized, (0, target_size[1] - width, 0, target_size[0] - height))
