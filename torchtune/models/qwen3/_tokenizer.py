"""The tokenizer of Qwen 3."""

from __future__ import annotations

from typing import ClassVar

from torchtune.models.qwen2_5._tokenizer import QWEN2_5_SPECIAL_TOKENS, Qwen2_5Tokenizer

QWEN3_SPECIAL_TOKENS = {
    **QWEN2_5_SPECIAL_TOKENS,
    "<tool_response>": 151665,
    "</tool_response>": 151666,
    "<think>": 151667,
    "</think>": 151668,
}


class Qwen3Tokenizer(Qwen2_5Tokenizer):
    """Tokenizer of Qwen 3: that of Qwen 2.5, with tokens for results and thinking.

    For its arguments see :class:`~torchtune.models.qwen2.Qwen2Tokenizer`.
    """

    default_format = "qwen3"
    family_tokens: ClassVar[dict[str, int]] = QWEN3_SPECIAL_TOKENS
