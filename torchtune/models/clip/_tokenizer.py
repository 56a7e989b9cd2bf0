"""CLIP's tokenizer. Source: the tokenizer of OpenAI's CLIP ViT-L/14, as Hugging Face publishes it."""

from __future__ import annotations

import torch

from torchtune.modules.transforms.tokenizers._bpe import byte_letters
from torchtune.utils._paths import tokenizer_file

WORD_BOUNDARY = "</w>"
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


class CLIPTokenizer:
    """Byte-level byte-pair encoding of lower-case words. Text never becomes a control token.

    Args:
        path: the ``merges.txt``: a first line ``#version``, then one pair of pieces a line, best first.
        max_seq_len: tokens that a text is filled up to.
        truncate: True cuts longer texts.

    Raises:
        OSError: if the file does not exist.
    """

    def __init__(self, path: str, max_seq_len: int = 77, truncate: bool = True) -> None:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        with open(tokenizer_file(path), encoding="utf-8") as file:
            lines = file.read().splitlines()
        merges = [
            (a, b) for a, b in (line.split() for line in lines if line.strip() and not line.startswith("#version"))
        ]
        letters = [chr(letter) for letter in byte_letters()]
        pieces = [*letters, *(letter + WORD_BOUNDARY for letter in letters), *map("".join, merges), _BOS, _EOS]
        vocab = {piece: i for i, piece in enumerate(pieces)}
        self._bpe = Tokenizer(models.BPE(vocab, merges, end_of_word_suffix=WORD_BOUNDARY))
        self._bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._pieces = {i: piece for piece, i in vocab.items()}
        self.max_seq_len, self.truncate = max_seq_len, truncate
        self.bos_token, self.eos_token = _BOS, _EOS
        self.bos_id, self.eos_id, self.vocab_size = vocab[_BOS], vocab[_EOS], len(pieces)
        self.pad_id = self.eos_id

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """Token ids of texts ``[len(texts), max_seq_len]``, filled with the end token."""
        return pad_texts([self.encode(text) for text in texts], self.max_seq_len, self.pad_id)

    def encode(self, text: str) -> list[int]:
        """At most ``max_seq_len`` ids of a text between start and end token; longer is an error without ``truncate``."""
        ids = [self.bos_id, *self._bpe.encode(text).ids, self.eos_id]
        return fit_text(ids, self.max_seq_len, self.eos_id, self.truncate)

    def decode(self, token_ids: list[int]) -> str:
        """The text of ids in lower case, with a space behind each word, control tokens included."""
        text = "".join(self._pieces[token] for token in token_ids).replace(WORD_BOUNDARY, "Ġ")
        return text.translate(byte_letters()).encode("latin-1").decode("utf-8", errors="replace")


def fit_text(ids: list[int], max_seq_len: int, eos_id: int, truncate: bool) -> list[int]:
    """Ids cut to a length, the end token kept; refused where they are not to be cut."""
    if len(ids) <= max_seq_len:
        return ids
    if not truncate:
        raise ValueError(
            f"A text has {len(ids)} tokens, more than max_seq_len={max_seq_len}; pass truncate=True to cut it"
        )
    return [*ids[: max_seq_len - 1], eos_id]


def pad_texts(texts: list[list[int]], max_seq_len: int, pad_id: int) -> torch.Tensor:
    """Ids of texts filled up at the end: ``[len(texts), max_seq_len]``."""
    return torch.tensor([ids + [pad_id] * (max_seq_len - len(ids)) for ids in texts]).reshape(-1, max_seq_len)
