"""Builds the tokenizer of Llama 2 from what a config holds."""

from __future__ import annotations

from typing import Any

from torchtune.models.llama2._tokenizer import Llama2Tokenizer
from torchtune.modules.transforms.tokenizers._builder import read_template


def llama2_tokenizer(
    path: str,
    max_seq_len: int | None = None,
    prompt_template: Any = "torchtune.models.llama2.Llama2ChatTemplate",
    truncation_type: str = "right",
    **kwargs: Any,
) -> Llama2Tokenizer:
    """Builds the tokenizer of Llama 2.

    Args:
        path: the SentencePiece model.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        **kwargs: other arguments of the tokenizer, such as ``chat_format`` and ``train_on``.

    Raises:
        ValueError: if ``prompt_template`` is neither of these.
    """
    return Llama2Tokenizer(
        path=path,
        max_seq_len=max_seq_len,
        prompt_template=read_template(prompt_template),
        truncation_type=truncation_type,
        **kwargs,
    )
