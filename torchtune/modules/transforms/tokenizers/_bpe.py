"""Byte-level byte-pair encoding with the Rust ``tokenizers``: what GPT-2, Qwen and Phi 4 have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: How GPT-2 splits text into words (Radford et al. 2019).
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@cache
def byte_letters() -> dict[int, int]:
    """GPT-2's alphabet as a table for ``str.translate``: the letter that stands for a byte -> that byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return dict(zip([*printable, *range(256, 256 + len(others))], [*printable, *others], strict=True))


class ByteLevelBPE:
    """Encodes plain text, with no special tokens at all, and spells ids as bytes.

    Args:
        vocab_path: ``vocab.json``, pieces in GPT-2's alphabet -> ids.
        merges_path: ``merges.txt``, one pair of pieces a line, best first.
        pattern: regular expression that splits text into words.
        nfc: True to bring text into Unicode's composed form first.

    Raises:
        OSError: if a file does not exist.
    """

    def __init__(self, vocab_path: str, merges_path: str, pattern: str, nfc: bool = False) -> None:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        for path in (vocab_path, merges_path):
            with open(path, "rb"):
                pass
        self.model = models.BPE.from_file(str(vocab_path), str(merges_path))
        self.rust: Tokenizer = Tokenizer(self.model)
        self.rust.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        if nfc:
            self.rust.normalizer = normalizers.NFC()
        self.size = self.rust.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.rust.encode(text).ids if text else []

    def encode_parts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes texts as one, and gives each the tokens that begin in it."""
        found = self.rust.encode("".join(texts))
        return share_by_start([start for start, _ in found.offsets], found.ids, map(len, texts))

    def spell(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; ids that are not in the vocabulary have none."""
        pieces = map(self.rust.id_to_token, ids)
        return "".join(filter(None, pieces)).translate(byte_letters()).encode("latin-1")


def share_by_start(starts: Sequence[int], ids: list[int], lengths: Iterable[int]) -> list[list[int]]:
    """Cuts the ids of joined texts where, by the tokens' sorted starts, each text begins."""
    from bisect import bisect_left

    cuts = [bisect_left(starts, end) for end in accumulate(lengths)]
    return [ids[start:end] for start, end in zip([0, *cuts], [*cuts[:-1], len(ids)], strict=False)]
