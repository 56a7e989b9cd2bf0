"""SentencePiece models."""

from __future__ import annotations

from torchtune.utils._paths import tokenizer_file

#: A model that splits white space off as a word of its own puts no other space before this.
_DEFAULT_PREFIX = "\n"


class SentencePieceBaseTokenizer:
    """Encodes and decodes with a SentencePiece model. Text never becomes a control token.

    Args:
        path: the ``tokenizer.model`` file.

    Raises:
        OSError: if the file does not exist or is no SentencePiece model.
    """

    def __init__(self, path: str) -> None:
        from sentencepiece import SentencePieceProcessor

        self.spm_model = SentencePieceProcessor()
        try:
            self.spm_model.load(tokenizer_file(path))
        except RuntimeError as error:
            raise OSError(f"{path} is no SentencePiece model: {error}") from error
        self.vocab_size = self.spm_model.vocab_size()
        self.bos_id = self.spm_model.bos_id()
        self.eos_id = self.spm_model.eos_id()
        self.pad_id = self.spm_model.pad_id()
        self._prefix_lengths: dict[str, int] = {}

    def encode(
        self,
        text: str,
        add_bos: bool = True,
        add_eos: bool = True,
        trim_leading_whitespace: bool = False,
        prefix: str | None = None,
    ) -> list[int]:
        """The token ids of a text.

        Args:
            text: the text.
            add_bos: True to put BOS before it.
            add_eos: True to put EOS after it.
            trim_leading_whitespace: True to leave out the space that SentencePiece puts before a text: for text that
                goes on a word or a line.
            prefix: what to encode before the text, and take off again, to have that space left out; a line break by
                default.
        """
        if not trim_leading_whitespace:
            ids = self.spm_model.encode(text)
        else:
            prefix = prefix or _DEFAULT_PREFIX
            if prefix not in self._prefix_lengths:
                self._prefix_lengths[prefix] = len(self.spm_model.encode(prefix))
            ids = self.spm_model.encode(prefix + text)[self._prefix_lengths[prefix] :]
        return [*([self.bos_id] if add_bos else []), *ids, *([self.eos_id] if add_eos else [])]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids; control tokens give none.

        Args:
            ids: token ids.
        """
        return self.spm_model.decode(ids)
