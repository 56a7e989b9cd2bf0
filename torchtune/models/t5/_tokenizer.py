"""T5's tokenizer."""

from __future__ import annotations

import torch

from torchtune.models.clip._tokenizer import fit_text, pad_texts
from torchtune.modules.transforms.tokenizers import SentencePieceBaseTokenizer


class T5Tokenizer(SentencePieceBaseTokenizer):
    """Texts to ids of one length, each with the end token behind it.

    Args:
        path: the SentencePiece model.
        max_seq_len: tokens that a text is filled up to.
        truncate: True cuts longer texts.

    Raises:
        OSError: if the file does not exist or is no SentencePiece model.
    """

    def __init__(self, path: str, max_seq_len: int = 512, truncate: bool = True) -> None:
        super().__init__(path)
        self.max_seq_len, self.truncate = max_seq_len, truncate

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Token ids of texts ``[len(texts), max_seq_len]``, filled with the padding id; 0 where the model has none."""
        return pad_texts([self.encode(text) for text in texts], self.max_seq_len, max(self.pad_id, 0))

    def encode(self, text: str) -> list[int]:  # type: ignore[override]
        """At most ``max_seq_len`` token ids of a text, the end token last; longer is an error without ``truncate``."""
        ids = super().encode(text, add_bos=False, add_eos=True)
        return fit_text(ids, self.max_seq_len, self.eos_id, self.truncate)
