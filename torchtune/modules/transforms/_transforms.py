"""What a transform is, and that of cross-attention masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch


class Transform(Protocol):
    """Anything that takes a sample and gives a sample back, such as a tokenizer or an image transform."""

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """Gives the sample with its own keys added, changed or taken out."""
        ...


class VisionCrossAttentionMask(Transform):
    """Says which text sees which image: text sees the image before it, up to the next one.

    Images one behind the other are seen by the same text. Source: the processor of Llama 3.2 Vision.

    Args:
        tile_size: pixels of a tile's side.
        patch_size: pixels of a patch's side.
        image_token_id: the token that stands for an image.
    """

    def __init__(self, tile_size: int, patch_size: int, image_token_id: int) -> None:
        self.patches_per_tile = (tile_size // patch_size) ** 2
        self.image_token_id = image_token_id

    def intervals(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """The places ``(begin, end)`` of the text that sees each image token, in order; ``end`` is exclusive.

        Args:
            tokens: ids of the text, images as ``image_token_id``.
        """
        starts = [i for i, token in enumerate(tokens) if token == self.image_token_id]
        intervals: list[tuple[int, int]] = []
        end = following = len(tokens)
        for start in reversed(starts):
            end = end if start == following - 1 else following
            intervals.insert(0, (start, end))
            following = start
        return intervals

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample with ``encoder_mask``: for each image booleans ``[s, n_tiles * (patches_per_tile + 1)]``.

        It has ``tokens``, and ``encoder_input``, whose ``images`` are tiles ``[n_tiles, c, h, w]``.

        Raises:
            ValueError: if there are not as many image tokens as images.
        """
        tokens, images = sample["tokens"], sample["encoder_input"]["images"]
        intervals = self.intervals(tokens)
        if len(intervals) != len(images):
            raise ValueError(f"The sample has {len(intervals)} image tokens, but {len(images)} images")
        masks = []
        for image, (start, end) in zip(images, intervals, strict=True):
            mask = torch.zeros(len(tokens), image.shape[0] * (self.patches_per_tile + 1), dtype=torch.bool)
            mask[start:end] = True
            masks.append(mask)
        return {**sample, "encoder_mask": masks}
