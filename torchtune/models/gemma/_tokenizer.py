"""The tokenizer of Gemma and Gemma 2."""

from __future__ import annotations

from torchtune.modules.transforms.tokenizers._spm_chat import WHITESPACE_CHARS, AddEosTokenizer

__all__ = ["WHITESPACE_CHARS", "GemmaTokenizer"]


class GemmaTokenizer(AddEosTokenizer):
    """Tokenizer of Gemma and Gemma 2. For further arguments see :class:`~torchtune.models.llama3.Llama3Tokenizer`.

    Args:
        path: the SentencePiece model.

    Raises:
        OSError: if ``path`` is no SentencePiece model.
    """

    default_format = "gemma2"
