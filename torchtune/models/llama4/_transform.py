"""Llama 4: conversations with images to tokens and tiles. Source: the processor of Llama 4."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import torch

from torchtune.models.llama3_2_vision._transform import ImageTokenizer
from torchtune.models.llama4._tokenizer import Llama4Tokenizer
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens

if TYPE_CHECKING:
    import PIL.Image

    from torchtune.data._message import Message
    from torchtune.data.formats import Segment


class Llama4Transform(ImageTokenizer, Llama4Tokenizer):
    """The tokenizer of Llama 4 and its image transform: everything that the tokenizer does, it does.

    An image is written as a token for each patch of its tiles, with separators, and once more as a whole, on a tile that
    ``max_num_tiles`` does not count. It is left out where its tokens are not whole. For other
    arguments see :class:`~torchtune.models.llama3_2_vision.Llama3VisionTransform`.

    Args:
        pixel_shuffle_scaling_factor: what the model's projection scales a tile's sides by, in patches.
    """

    def __init__(
        self,
        path: str,
        *,
        tile_size: int,
        patch_size: int,
        max_num_tiles: int = 4,
        pixel_shuffle_scaling_factor: float = 0.5,
        special_tokens_path: str | None = None,
        max_seq_len: int | None = None,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        dtype: torch.dtype = torch.bfloat16,
        prompt_template: Any = None,
        **chat_options: Any,
    ) -> None:
        super().__init__(
            path,
            tile_size=tile_size,
            patch_size=patch_size,
            max_num_tiles=max_num_tiles,
            special_tokens_path=special_tokens_path,
            max_seq_len=max_seq_len,
            image_mean=image_mean,
            image_std=image_std,
            prompt_template=prompt_template,
            dtype=dtype,
            **chat_options,
        )
        self.patch_tokens_per_tile = int((tile_size // patch_size) ** 2 * pixel_shuffle_scaling_factor**2)

    def transform_image(self, image: PIL.Image.Image, inference: bool = False) -> torch.Tensor:
        """The tiles ``[n_tiles, c, tile_size, tile_size]`` of an image and, where they are several, the whole on one more.

        Args:
            image: a PIL image, or a tensor ``[c, h, w]``.
            inference: no difference here.
        """
        tiles = self.clip_transform({"image": image})["image"]
        return torch.cat([tiles, self.clip_transform.thumbnail(image)]) if len(tiles) > 1 else tiles

    def image_tokens(self, image: Any) -> list[int]:
        """The ids that stand for an image, begin and end included; their number follows from its size.

        Args:
            image: a PIL image, or a tensor ``[c, h, w]``.
        """
        rows, columns = self.clip_transform.canvas(image)
        tile = [self.patch_id] * self.patch_tokens_per_tile
        row = [*[*tile, self.tile_x_separator] * (columns - 1), *tile, self.tile_y_separator]
        tiles = row * rows if rows * columns > 1 else []
        return [self.image_start, *tiles, self.image_id, *tile, self.image_end]

    def _encode_item(self, item: dict[str, Any], index: int) -> list[int]:
        return self.image_tokens(item["content"]) if item["type"] == "image" else super()._encode_item(item, index)

    def _encode_media(self, segment: Segment) -> list[int]:
        return self.image_tokens(segment.media)

    def tokenize_chat(
        self, messages: list[Message], *, tools: Any = None, add_end_tokens: bool = True, **plain_options: Any
    ) -> ChatTokens:
        """As the tokenizer does, but no part is left of an image that was cut into; see :meth:`Llama4Tokenizer.tokenize_messages`."""
        chat = super().tokenize_chat(messages, tools=tools, add_end_tokens=add_end_tokens, **plain_options)
        starts = [i for i, token in enumerate(chat.tokens) if token == self.image_start]
        ends = [i for i, token in enumerate(chat.tokens) if token == self.image_end]
        if len(starts) == len(ends):
            return chat
        size = len(chat)
        first = ends[0] + 1 if ends and (not starts or ends[0] < starts[0]) else 0
        torn = starts and (not ends or starts[-1] > ends[-1])
        last = starts[-1] if torn else size
        kept = chat.cut(first, last)
        if torn and chat.tokens[-1] == self.eos_id:
            closing = chat.cut(size - 1, size)
            kept = ChatTokens(kept.tokens + closing.tokens, kept.runs + closing.runs, kept.cut_off, kept.messages)
        return kept

    def __call__(self, sample: MutableMapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample with ``tokens``, ``mask`` and ``encoder_input`` in place of ``messages`` and ``tools``.

        ``encoder_input`` is ``{"vision": {"images": tiles}}``, a tensor ``[n_tiles, c, h, w]`` for each image.
        """
        images = self._add_tokens(sample, inference)
        sample["encoder_input"] = {"vision": {"images": [self.transform_image(image, inference) for image in images]}}
        return sample


def llama4_transform(
    path: str,
    max_seq_len: int = 8192,
    image_size: int = 336,
    max_num_tiles: int = 16,
    special_tokens_path: str | None = None,
    prompt_template: Any = None,
    **options: Any,
) -> Llama4Transform:
    """The transform of Llama 4, with the model's sizes; see :class:`Llama4Transform`.

    Args:
        image_size: pixels of a tile's side.
    """
    return Llama4Transform(
        path,
        tile_size=image_size,
        patch_size=14,
        max_num_tiles=max_num_tiles,
        special_tokens_path=special_tokens_path,
        max_seq_len=max_seq_len,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        prompt_template=prompt_template,
        **options,
    )
