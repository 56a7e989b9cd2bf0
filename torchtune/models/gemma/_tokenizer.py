"""The tokenizer of Gemma and Gemma 2."""

from __future__ import annotations

from torchtune.modules.transforms.tokenizers._spm_chat import WHITESPACE_CHARS, AddEosTokenizer

__all__ = ["WHITESPACE_CHARS", "GemmaTokenizer"]


class GemmaTokenizer(AddEosTokenizer):
    """Tokenizer of Gemma and Gemma 2.

    Args:
        path: the SentencePiece model.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: words put around the messages, or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        chat_format, train_on, format_options: see :class:`~torchtune.models.llama3.Llama3Tokenizer`.

    Raises:
        OSError: if ``path`` is no SentencePiece model.
        ValueError: if an option has no such value.
    """

    default_format = "gemma2"
