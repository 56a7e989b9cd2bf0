"""Builds the tokenizer of Phi 3 mini from what a config holds."""

from __future__ import annotations

from typing import Any

from torchtune.models.phi3._tokenizer import Phi3MiniTokenizer
from torchtune.modules.transforms.tokenizers._builder import read_special_tokens, read_template


def phi3_mini_tokenizer(
    path: str,
    special_tokens_path: str | None = None,
    max_seq_len: int | None = None,
    prompt_template: Any = None,
    truncation_type: str = "right",
    **kwargs: Any,
) -> Phi3MiniTokenizer:
    """Builds the tokenizer of Phi 3 mini.

    Args:
        path: the SentencePiece model.
        special_tokens_path: a ``tokenizer.json`` to take the control tokens from; the family's by default.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        **kwargs: other arguments of the tokenizer, such as ``chat_format`` and ``train_on``.

    Raises:
        ValueError: if ``prompt_template`` is neither of these.
    """
    return Phi3MiniTokenizer(
        path=path,
        special_tokens=read_special_tokens(special_tokens_path),
        max_seq_len=max_seq_len,
        prompt_template=read_template(prompt_template),
        truncation_type=truncation_type,
        **kwargs,
    )
