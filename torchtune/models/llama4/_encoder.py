"""The image encoder of Llama 4: CLIP on single tiles, then a projection of four patches at a time."""

from __future__ import annotations

import math

from torch import Tensor, nn


class Llama4VisionProjectionHead(nn.Module):
    """Joins neighbouring patches of a tile and projects them.

    Args:
        output (nn.Module): ``d / pixel_shuffle_scaling_factor ** 2 -> d_decoder``.
        pixel_shuffle_scaling_factor (float): 0.5 joins 2 by 2 patches.
    """

    def __init__(self, output: nn.Module, pixel_shuffle_scaling_factor: float = 0.5) -> None:
        super().__init__()
        self.output = output
        self.pixel_shuffle_scaling_factor = pixel_shuffle_scaling_factor

    def _pixel_shuffle(self, x: Tensor) -> Tensor:
        """``[b, h, w, d] -> [b, h * f, w * f, d / f ** 2]``."""
        factor = self.pixel_shuffle_scaling_factor
        batch, height, width, dim = x.shape
        x = x.reshape(batch, height, int(width * factor), int(dim / factor)).transpose(1, 2)
        x = x.reshape(batch, int(width * factor), int(height * factor), int(dim / factor**2))
        return x.transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Project the tokens of tiles: ``[b, e, d] -> [b, (e - 1) * f ** 2, d_decoder]``, f the scaling factor.

        A tile is square, its CLS token the last.
        """
        side = math.isqrt(x.shape[1] - 1)
        patches = x[:, :-1].unflatten(1, (side, side))
        return self.output(self._pixel_shuffle(patches).flatten(1, 2))


class Llama4VisionEncoder(nn.Module):
    """CLIP and the projection after it.

    Args:
        clip (nn.Module): tiles to tokens.
        projection_head (nn.Module): tokens to the decoder's size.
    """

    def __init__(self, clip: nn.Module, projection_head: nn.Module) -> None:
        super().__init__()
        self.clip = clip
        self.projection = projection_head

    def forward(self, images: Tensor) -> Tensor:
        """Encode n tiles, each by itself, to e tokens: ``[..., c, h, w] -> [n, e, d_decoder]``."""
        tiles = images.reshape(-1, 1, 1, *images.shape[-3:])
        tokens, _ = self.clip(tiles)
        return self.projection(tokens.flatten(0, 2))
