"""GPT-2's byte-pair encoding."""

from __future__ import annotations

from torchtune.modules.transforms.tokenizers._bpe import GPT2_PATTERN, ByteLevelBPE


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
        self.unk_id = unk_id
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.pad_id = pad_id

    @property
    def vocab_size(self) -> int:
        """Number of pieces in the vocabulary, special tokens left out."""
        return self._bpe.size

    def bpe(self, token: str) -> str:
        """Merges one word.

        Args:
            token: a word in GPT-2's alphabet.

        Returns:
            Its pieces, with spaces between them.
        """
        return " ".join(piece.value for piece in self._bpe.model.tokenize(token))

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Encodes a text as plain text, whatever it looks like.

        Args:
            text: the text.
            add_bos: True to put BOS before it, where there is one.
            add_eos: True to put EOS after it, where there is one.

        Returns:
            Token ids.
        """
        ids = self._bpe.encode(text)
        if add_bos and self.bos_id is not None:
            ids.insert(0, self.bos_id)
        if add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Decodes token ids; ids that are not in the vocabulary give no text.

        Args:
            tokens: token ids.

        Returns:
            The text; bytes that are no UTF-8 become U+FFFD.
        """
        return self._bpe.spell(tokens).decode("utf-8", errors="replace")
