"""Builds the tokenizer of Gemma from what a config holds."""

from __future__ import annotations

from typing import Any

from torchtune.models.gemma._tokenizer import GemmaTokenizer
from torchtune.modules.transforms.tokenizers._builder import read_template


def gemma_tokenizer(
    path: str,
    max_seq_len: int | None = None,
    prompt_template: Any = None,
    truncation_type: str = "right",
    **kwargs: Any,
) -> GemmaTokenizer:
    """Builds the tokenizer of Gemma.

    Args:
        path: the SentencePiece model.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        **kwargs: other arguments of the tokenizer, such as ``chat_format`` and ``train_on``.

    Raises:
        ValueError: if ``prompt_template`` is neither of these.
    """
    return GemmaTokenizer(
        path=path,
        max_seq_len=max_seq_len,
        prompt_template=read_template(prompt_template),
        truncation_type=truncation_type,
        **kwargs,
    )
