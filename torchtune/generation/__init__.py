"""Generating from a model: token by token, and conversation by conversation with tool calls read back."""

from torchtune.generation._generation import (
    generate,
    generate_next_token,
    get_causal_mask_from_padding_mask,
    get_position_ids_from_padding_mask,
    sample,
)
from torchtune.generation._images import generate_from_images, image_prompt
from torchtune.generation._messages import generate_messages, generate_tokens

__all__ = [
    "generate",
    "generate_from_images",
    "generate_messages",
    "generate_next_token",
    "generate_tokens",
    "get_causal_mask_from_padding_mask",
    "get_position_ids_from_padding_mask",
    "image_prompt",
    "sample",
]
