"""The tokenizer of Llama 4, its text part. Source of the ids: Meta's llama-models, ``llama4/tokenizer.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from torchtune.models.llama3._tokenizer import TikTokenChatTokenizer

O200K_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _numbered(reserved: str, first: int, count: int, names: Mapping[int, str]) -> dict[str, int]:
    """Ids from ``first`` on: the named ones, and between them reserved ones, numbered through."""
    found: dict[str, int] = {}
    for number in range(first, first + count):
        found[names.get(number, f"<|{reserved}_{len(found) - sum(n < number for n in names)}|>")] = number
    return found


BASIC_SPECIAL_TOKENS = {
    "<|begin_of_text|>": 200000,
    "<|end_of_text|>": 200001,
    "<|fim_prefix|>": 200002,
    "<|fim_middle|>": 200003,
    "<|fim_suffix|>": 200004,
}
TEXT_SPECIAL_TOKENS = _numbered(
    "text_post_train_reserved_special_token",
    200005,
    75,
    {
        200005: "<|header_start|>",
        200006: "<|header_end|>",
        200007: "<|eom|>",
        200008: "<|eot|>",
        200009: "<|step|>",
        200018: "<|finetune_right_pad|>",
    },
)
VISION_SPECIAL_TOKENS = _numbered(
    "vision_reserved_special_token",
    200080,
    1054,
    {
        200080: "<|image_start|>",
        200081: "<|image_end|>",
        200084: "<|tile_x_separator|>",
        200085: "<|tile_y_separator|>",
        200090: "<|image|>",
        200092: "<|patch|>",
    },
)
REASONING_SPECIAL_TOKENS = _numbered(
    "reasoning_reserved_special_token",
    201134,
    10,
    {201142: "<|reasoning_thinking_start|>", 201143: "<|reasoning_thinking_end|>"},
)
SPECIAL_TOKENS = {**BASIC_SPECIAL_TOKENS, **TEXT_SPECIAL_TOKENS, **VISION_SPECIAL_TOKENS, **REASONING_SPECIAL_TOKENS}
NUM_RESERVED_SPECIAL_TOKENS = 2048
RESERVED_TOKENS = _numbered(
    "reserved_special_token", 200000 + len(SPECIAL_TOKENS), NUM_RESERVED_SPECIAL_TOKENS - len(SPECIAL_TOKENS), {}
)
LLAMA4_SPECIAL_TOKENS = {**SPECIAL_TOKENS, **RESERVED_TOKENS}

#: What the chat template calls two tokens that are reserved in the list above.
_TEMPLATE_NAMES = {
    "<|python_start|>": "<|text_post_train_reserved_special_token_6|>",
    "<|python_end|>": "<|text_post_train_reserved_special_token_7|>",
}


class Llama4Tokenizer(TikTokenChatTokenizer):
    """Tokenizer of Llama 4; for its arguments see :class:`~torchtune.models.llama3.Llama3Tokenizer`."""

    default_format = "llama4"
    family_tokens = LLAMA4_SPECIAL_TOKENS
    encoding_name = "llama4_tiktoken"
    pattern = O200K_PATTERN
    special_text = re.compile(r"<\|header_start\|>.*?<\|header_end\|>\n\n|<\|.*?\|>")
    control_tokens: ClassVar[dict[str, str]] = {
        "bos_id": "<|begin_of_text|>",
        "eos_id": "<|end_of_text|>",
        "pad_id": "<|finetune_right_pad|>",
        "step_id": "<|step|>",
        "start_header_id": "<|header_start|>",
        "end_header_id": "<|header_end|>",
        "eot_id": "<|eot|>",
        "eom_id": "<|eom|>",
        "image_id": "<|image|>",
        "patch_id": "<|patch|>",
        "image_start": "<|image_start|>",
        "image_end": "<|image_end|>",
        "tile_x_separator": "<|tile_x_separator|>",
        "tile_y_separator": "<|tile_y_separator|>",
        "reasoning_start": "<|reasoning_thinking_start|>",
        "reasoning_end": "<|reasoning_thinking_end|>",
    }

    image_id: int
    patch_id: int
    image_start: int
    image_end: int
    tile_x_separator: int
    tile_y_separator: int

    def _control_ids(self) -> Mapping[str, int]:
        names = {
            text: self.special_tokens[name] for text, name in _TEMPLATE_NAMES.items() if name in self.special_tokens
        }
        return {**self.special_tokens, **names}
