"""Llama 3.2 Vision: conversations with images to tokens, tiles, and masks of what text sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, MutableMapping
from functools import cached_property
from typing import Any

import torch

from torchtune.models.clip._transform import CLIPImageTransform
from torchtune.models.llama3._tokenizer import Llama3Tokenizer, TikTokenChatTokenizer
from torchtune.modules.transforms import VisionCrossAttentionMask
from torchtune.modules.transforms.tokenizers._builder import read_special_tokens, read_template
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens

#: Of CLIP, which the image encoder began as.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def images_left(chat: ChatTokens, image_token: int, truncation_type: str) -> list[Any]:
    """The images of a conversation whose token was not cut off, in their order."""
    places = zip(chat.tokens, chat.message_index, strict=True)
    left = Counter(index for token, index in places if token == image_token)
    images: list[Any] = []
    for index, message in enumerate(chat.messages):
        own = message.get_media()
        images += own[: left[index]] if truncation_type == "right" else own[len(own) - left[index] :]
    return images


class ImageTokenizer(TikTokenChatTokenizer):
    """A tokenizer and an image transform in one: everything that the tokenizer does, it does."""

    image_id: int

    def __init__(
        self,
        path: str,
        *,
        tile_size: int,
        patch_size: int,
        max_num_tiles: int = 4,
        special_tokens_path: str | None = None,
        max_seq_len: int | None = None,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        prompt_template: Any = None,
        dtype: torch.dtype = torch.bfloat16,
        **chat_options: Any,
    ) -> None:
        controls, template = read_special_tokens(special_tokens_path), read_template(prompt_template)
        super().__init__(path, controls, max_seq_len, template, **chat_options)
        self.tile_size, self.patch_size, self.max_num_tiles = tile_size, patch_size, max_num_tiles
        self.clip_transform = CLIPImageTransform(
            image_mean=image_mean, image_std=image_std, tile_size=tile_size, max_num_tiles=max_num_tiles, dtype=dtype
        )

    @property
    def tokenizer(self) -> ImageTokenizer:
        """The tokenizer: this object itself."""
        return self

    def _add_tokens(self, sample: MutableMapping[str, Any], inference: bool) -> list[Any]:
        """Put tokens in the place of a sample's messages; gives the images that are left."""
        messages, tools = sample.pop("messages"), sample.pop("tools", None)
        chat = self.tokenize_chat(messages, tools=tools, add_end_tokens=not inference)
        sample["tokens"], sample["mask"] = chat.tokens, chat.mask(self.train_on)
        return images_left(chat, self.image_id, self.truncation_type)


class Llama3VisionTransform(ImageTokenizer, Llama3Tokenizer):
    """The tokenizer of Llama 3.2 Vision and its image transform: everything that the tokenizer does, it does.

    Args:
        path: the ``tokenizer.model`` in tiktoken's form.
        tile_size: pixels of a tile's side.
        patch_size: pixels of a patch's side.
        max_num_tiles: most tiles of an image.
        special_tokens_path: a ``tokenizer.json`` to take the control tokens from; the family's by default.
        max_seq_len: length that conversations are cut to, or None. Images whose tokens are cut off are left out.
        image_mean: of each channel, taken off; None for no normalization.
        image_std: of each channel, divided by.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        dtype: of the tiles.
        **chat_options: ``truncation_type``, ``chat_format``, ``train_on`` and ``format_options`` of the tokenizer.
    """

    default_format = "llama3_2"

    @cached_property
    def xattn_mask(self) -> VisionCrossAttentionMask:
        """Makes the masks of which text sees which image."""
        return VisionCrossAttentionMask(self.tile_size, self.patch_size, self.image_id)

    @property
    def image_seq_len(self) -> int:
        """Tokens of an image."""
        return self.max_num_tiles * (self.xattn_mask.patches_per_tile + 1)

    @property
    def transform_image(self) -> CLIPImageTransform:
        """The image transform."""
        return self.clip_transform

    def __call__(self, sample: MutableMapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample with ``tokens``, ``mask``, ``encoder_input`` and ``encoder_mask`` in place of its messages.

        ``encoder_input`` has ``images``, a list of ``[n_tiles, c, h, w]``, and ``aspect_ratio``, a list of ``[2]``;
        ``encoder_mask`` says for each image which text sees it.
        """
        found = [self.clip_transform({"image": image}) for image in self._add_tokens(sample, inference)]
        sample["encoder_input"] = {
            "images": [image["image"] for image in found],
            "aspect_ratio": [image["aspect_ratio"] for image in found],
        }
        return self.xattn_mask(sample, inference=inference)


def llama3_2_vision_transform(
    path: str,
    max_seq_len: int = 8192,
    image_size: int = 560,
    special_tokens_path: str | None = None,
    prompt_template: Any = None,
    **options: Any,
) -> Llama3VisionTransform:
    """The transform of Llama 3.2 Vision, with the model's sizes; see :class:`Llama3VisionTransform`.

    Args:
        image_size: pixels of a tile's side; 560 for the instruct models, 448 for the base models.
    """
    return Llama3VisionTransform(
        path,
        tile_size=image_size,
        patch_size=14,
        max_num_tiles=4,
        special_tokens_path=special_tokens_path,
        max_seq_len=max_seq_len,
        image_mean=list(CLIP_MEAN),
        image_std=list(CLIP_STD),
        prompt_template=prompt_template,
        **options,
    )
