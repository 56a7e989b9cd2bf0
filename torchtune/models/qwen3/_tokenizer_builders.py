"""Builds the tokenizer of Qwen 3 from what a config holds."""

from __future__ import annotations

from typing import Any

from torchtune.models.qwen3._tokenizer import QWEN3_SPECIAL_TOKENS, Qwen3Tokenizer
from torchtune.modules.transforms.tokenizers._builder import read_special_tokens, read_template


def qwen3_tokenizer(
    path: str,
    merges_file: str,
    special_tokens_path: str | None = None,
    max_seq_len: int | None = None,
    prompt_template: Any = None,
    truncation_type: str = "right",
    **kwargs: Any,
) -> Qwen3Tokenizer:
    """Builds the tokenizer of Qwen 3.

    Args:
        path: the ``vocab.json``.
        merges_file: the ``merges.txt``.
        special_tokens_path: a ``tokenizer.json`` to take the control tokens from; the family's by default.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        **kwargs: other arguments of the tokenizer, such as ``chat_format`` and ``train_on``.

    Raises:
        ValueError: if ``prompt_template`` is neither of these.
    """
    return Qwen3Tokenizer(
        path=path,
        merges_file=merges_file,
        special_tokens=read_special_tokens(special_tokens_path) or QWEN3_SPECIAL_TOKENS,
        max_seq_len=max_seq_len,
        prompt_template=read_template(prompt_template),
        truncation_type=truncation_type,
        **kwargs,
    )
