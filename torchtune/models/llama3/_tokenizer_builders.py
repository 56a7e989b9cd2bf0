"""Builds the tokenizer of Llama 3 from what a config holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchtune.models.llama3._tokenizer import Llama3Tokenizer
from torchtune.modules.transforms.tokenizers._builder import read_special_tokens, read_template


def llama3_tokenizer(
    path: str,
    special_tokens_path: str | None = None,
    max_seq_len: int | None = None,
    prompt_template: Any = None,
    truncation_type: str = "right",
    *,
    chat_format: str | None = None,
    train_on: str = "message",
    format_options: Mapping[str, Any] | None = None,
) -> Llama3Tokenizer:
    """Builds the tokenizer of Llama 3, 3.1, 3.2 or 3.3.

    Args:
        path: the ``tokenizer.model`` in tiktoken's form.
        special_tokens_path: a ``tokenizer.json`` to take the control tokens from; Llama 3.1's by default.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        chat_format: see :class:`~torchtune.models.llama3.Llama3Tokenizer`.
        train_on: likewise.
        format_options: likewise.

    Raises:
        ValueError: if ``prompt_template`` is neither of these.
    """
    return Llama3Tokenizer(
        path=path,
        special_tokens=read_special_tokens(special_tokens_path),
        max_seq_len=max_seq_len,
        prompt_template=read_template(prompt_template),
        truncation_type=truncation_type,
        chat_format=chat_format,
        train_on=train_on,
        format_options=format_options,
    )
