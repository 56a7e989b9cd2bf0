"""Tokenizers with GPT-2's byte-pair encoding."""

from __future__ import annotations

from collections.abc import Sequence

from torchtune.modules.transforms.tokenizers._bpe import GPT2_PATTERN, ByteLevelBPE
from torchtune.modules.transforms.tokenizers._chat import ChatTokenizer, with_ends


class GPT2BaseTokenizer:
    """Byte-level byte-pair encoding from a ``vocab.json`` and a ``merges.txt``.

    Args:
        vocab_path: pieces in GPT-2's alphabet -> ids.
        merges_path: one pair of pieces a line, best first.
        unk_id: id of the token for what is unknown, or None.
        bos_id: id put before a text on request, or None for none.
        eos_id: id put after a text on request, or None for none.
        pad_id: id to fill with, or None.
        pattern: regular expression that splits text into words; GPT-2's by default.

    Raises:
        OSError: if a file does not exist.
    """

    def __init__(
        self,
        vocab_path: str,
        merges_path: str,
        unk_id: int | None = None,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        *,
        pattern: str = GPT2_PATTERN,
    ) -> None:
        self._bpe = ByteLevelBPE(vocab_path, merges_path, pattern)
        self.unk_id, self.bos_id, self.eos_id, self.pad_id = unk_id, bos_id, eos_id, pad_id

    @property
    def vocab_size(self) -> int:
        """Number of pieces in the vocabulary, special tokens left out."""
        return self._bpe.size

    def bpe(self, token: str) -> str:
        """The pieces of one word, with spaces between them.

        Args:
            token: a word in GPT-2's alphabet.
        """
        return " ".join(piece.value for piece in self._bpe.model.tokenize(token))

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The token ids of a text as plain text, whatever it looks like.

        Args:
            text: the text.
            add_bos: True to put BOS before it, where there is one.
            add_eos: True to put EOS after it, where there is one.
        """
        return with_ends(self._bpe.encode(text), self.bos_id if add_bos else None, self.eos_id if add_eos else None)

    def decode(self, tokens: list[int]) -> str:
        """The text of token ids; ids that are not in the vocabulary give none, bytes that are no UTF-8 U+FFFD.

        Args:
            tokens: token ids.
        """
        return self._bpe.spell(tokens).decode("utf-8", errors="replace")


class ByteLevelChatTokenizer(ChatTokenizer):
    """Conversations on a byte-level vocabulary ``_bpe``: Qwen and Phi 4."""

    #: What to do with bytes that are no UTF-8, as in ``bytes.decode``.
    errors = "replace"
    _bpe: ByteLevelBPE

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self._bpe.size, *(number + 1 for number in self.special_tokens.values()))

    def _encode_text(self, text: str) -> list[int]:
        return self._bpe.encode(text)

    def _encode_parts(self, texts: Sequence[str]) -> list[list[int]]:
        return self._bpe.encode_parts(texts)

    def _decode_text(self, ids: list[int]) -> str:
        return self._bpe.spell(ids).decode("utf-8", errors=self.errors)
