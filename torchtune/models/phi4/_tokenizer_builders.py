"""Builds the tokenizer of Phi 4 from what a config holds."""

from __future__ import annotations

from typing import Any

from torchtune.models.phi4._tokenizer import Phi4Tokenizer
from torchtune.modules.transforms.tokenizers._builder import read_special_tokens, read_template


def phi4_tokenizer(
    vocab_path: str | None = None,
    merges_path: str | None = None,
    special_tokens_path: str | None = None,
    max_seq_len: int | None = None,
    prompt_template: Any = None,
    truncation_type: str = "right",
    **kwargs: Any,
) -> Phi4Tokenizer:
    """Builds the tokenizer of Phi 4.

    Args:
        vocab_path: the ``vocab.json``.
        merges_path: the ``merges.txt``.
        special_tokens_path: a ``tokenizer.json`` to take the control tokens from; the family's by default.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        **kwargs: other arguments of the tokenizer, such as ``chat_format`` and ``train_on``.

    Raises:
        ValueError: if a path is missing, or ``prompt_template`` is neither of these.
    """
    if vocab_path is None or merges_path is None:
        raise ValueError(
            f"phi4_tokenizer needs vocab_path and merges_path, the model's vocab.json and merges.txt; found {vocab_path!r} "
            f"and {merges_path!r}."
        )
    return Phi4Tokenizer(
        vocab_path=vocab_path,
        merges_path=merges_path,
        special_tokens=read_special_tokens(special_tokens_path),
        max_seq_len=max_seq_len,
        prompt_template=read_template(prompt_template),
        truncation_type=truncation_type,
        **kwargs,
    )
