"""Llama 3.2 Vision: conversations with images to tokens, tiles, and masks of what text sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

from torchtune.models.clip._transform import CLIPImageTransform
from torchtune.models.llama3._tokenizer import Llama3Tokenizer
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


class Llama3VisionTransform(Llama3Tokenizer):
    """The tokenizer of Llama 3.2 Vision and its image transform: everything that the tokenizer does, it does.

    Args:
        path: the ``tokenizer.model`` in tiktoken's form.
        tile_size: pixels of a tile's side.
        patch_size: pixels of a patch's side.
        max_num_tiles: most tiles of an image.
        special_tokens_path: a ``tokenizer.json`` to take the control tokens from; Llama 3's by default.
        max_seq_len: length that conversations are cut to, or None. Images whose token is cut off are left out.
        image_mean: of each channel, taken off; None for no normalization.
        image_std: of each channel, divided by.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        dtype: of the tiles.
        **chat_options: ``truncation_type``, ``chat_format``, ``train_on`` and ``format_options`` of
            :class:`~torchtune.models.llama3.Llama3Tokenizer`.
    """

    default_format = "llama3_2"

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
        super().__init__(
            path,
            special_tokens=read_special_tokens(special_tokens_path),
            max_seq_len=max_seq_len,
            prompt_template=read_template(prompt_template),
            **chat_options,
        )
        self.transform_image = CLIPImageTransform(
            image_mean=image_mean, image_std=image_std, tile_size=tile_size, max_num_tiles=max_num_tiles, dtype=dtype
        )
        self.xattn_mask = VisionCrossAttentionMask(tile_size, patch_size, self.image_id)
        self.image_seq_len = max_num_tiles * (self.xattn_mask.patches_per_tile + 1)

    @property
    def tokenizer(self) -> Llama3VisionTransform:
        """The tokenizer: this object itself."""
        return self

    def __call__(self, sample: MutableMapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """Takes ``messages`` and ``tools`` out of a sample and puts in what the model takes.

        Args:
            sample: a sample with ``messages``, and ``tools`` where it has any.
            inference: True to leave the last turn open.

        Returns:
            The sample with ``tokens``, ``mask``, ``encoder_input``: ``images``, a list of ``[n_tiles, c, h, w]``, and
            ``aspect_ratio``, a list of ``[2]``; and ``encoder_mask``, for each image which text sees it.
        """
        messages, tools = sample.pop("messages"), sample.pop("tools", None)
        chat = self.tokenize_chat(messages, tools=tools, add_end_tokens=not inference)
        found = [self.transform_image({"image": i}) for i in images_left(chat, self.image_id, self.truncation_type)]
        sample["tokens"], sample["mask"] = chat.tokens, chat.mask(self.train_on)
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
    """Builds the transform of Llama 3.2 Vision.

    Args:
        path: the ``tokenizer.model`` in tiktoken's form.
        max_seq_len: length that conversations are cut to.
        image_size: pixels of a tile's side; 560 for the instruct models, 448 for the base models.
        special_tokens_path: a ``tokenizer.json`` to take the control tokens from; Llama 3's by default.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        **options: further arguments of :class:`Llama3VisionTransform`.

    Returns:
        The transform: tokenizer and image transform with the model's sizes.
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
