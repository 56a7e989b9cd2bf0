"""Byte-level byte-pair encoding from ``vocab.json`` and ``merges.txt``: what GPT-2, Qwen and Phi 4 have in common.

Text is encoded by tiktoken, which is several times as fast as the Rust ``tokenizers``. tiktoken joins any two tokens whose
bytes are a token, lowest id first; ``tokenizers`` joins the pairs of the merges file, in its order. Both give the same ids
where ids rise in the order of the merges, and where each token, merged by itself, is made of a pair of the file. That is
checked when the files are read; a vocabulary for which it does not hold is left to ``tokenizers``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from torchtune.modules.transforms.tokenizers._tiktoken import MAX_RUN_CHARS, split_long_text
from torchtune.utils._paths import tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: How GPT-2 splits text into words (Radford et al. 2019).
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
#: Characters that are in composed form whatever stands beside them are those below.
_MAY_COMPOSE = re.compile("[\u0300-\U0010ffff]")
_NONE = sys.maxsize


@cache
def byte_letters() -> dict[int, int]:
    """GPT-2's alphabet as a table for ``str.translate``: the letter that stands for a byte -> that byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return dict(zip([*printable, *range(256, 256 + len(others))], [*printable, *others], strict=True))


class ByteLevelBPE:
    """Encodes plain text, with no special tokens at all, and spells ids as bytes.

    From ``vocab.json``, pieces in GPT-2's alphabet -> ids, and ``merges.txt``, one pair of pieces a line, best first;
    ``pattern`` splits text into words, after Unicode's composed form where ``nfc``.
    """

    def __init__(self, vocab_path: str, merges_path: str, pattern: str, nfc: bool = False) -> None:
        self._paths, self._pattern, self._nfc = (str(vocab_path), str(merges_path)), pattern, nfc
        with open(tokenizer_file(vocab_path), encoding="utf-8") as file:
            vocab = json.load(file)
        if not isinstance(vocab, dict) or not all(isinstance(token, int) for token in vocab.values()):
            raise ValueError(f"{vocab_path} must be a JSON object of pieces and their ids.")
        with open(tokenizer_file(merges_path), encoding="utf-8") as file:
            merges = [line.rstrip("\r") for line in file.read().split("\n") if line and not line.startswith("#version")]
        self.size = len(vocab)
        self._bytes = {token: piece.translate(byte_letters()) for piece, token in vocab.items()}
        self._core: Any = None
        reached = mergeable_ids(vocab, merges)
        if reached is None:
            _ = self.rust
            return
        from tiktoken import Encoding

        ranks = {self._bytes[token].encode("latin-1"): token for token in reached}
        self._core = Encoding("byte_level", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    @cached_property
    def model(self) -> Any:
        """The Rust model of the same files."""
        from tokenizers import models

        return models.BPE.from_file(*self._paths)

    @cached_property
    def rust(self) -> Tokenizer:
        """The Rust tokenizer of the same files."""
        from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

        rust = Tokenizer(self.model)
        rust.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(self._pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        if self._nfc:
            rust.normalizer = normalizers.NFC()
        return rust

    def encode(self, text: str) -> list[int]:
        if self._core is None or (len(text) > MAX_RUN_CHARS and len(split_long_text(text)) > 1):
            return self.rust.encode(text).ids if text else []
        if self._nfc and not text.isascii() and _MAY_COMPOSE.search(text):
            text = _compose(text)
        return self._core.encode_ordinary(text)

    def encode_parts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes texts as one, and gives each the tokens that begin in it."""
        whole = "".join(texts)
        changes = self._nfc and _MAY_COMPOSE.search(whole) and _compose(whole) != whole
        if self._core is None or changes or len(whole) > MAX_RUN_CHARS:
            found = self.rust.encode(whole)
            return share_by_start([start for start, _ in found.offsets], found.ids, map(len, texts))
        ids = self._core.encode_ordinary(whole)
        starts = list(accumulate(map(len, map(self._bytes.__getitem__, ids)), initial=0))
        sizes = texts if whole.isascii() else [text.encode() for text in texts]
        return share_by_start(starts[:-1], ids, map(len, sizes))

    def spell(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; ids that are not in the vocabulary have none."""
        return "".join(filter(None, map(self._bytes.get, ids))).encode("latin-1")


def _compose(text: str) -> str:
    from tokenizers import normalizers

    return normalizers.NFC().normalize_str(text)


def share_by_start(starts: Sequence[int], ids: list[int], lengths: Iterable[int]) -> list[list[int]]:
    """Cuts the ids of joined texts where, by the tokens' sorted starts, each text begins."""
    from bisect import bisect_left

    cuts = [bisect_left(starts, end) for end in accumulate(lengths)]
    return [ids[start:end] for start, end in zip([0, *cuts], [*cuts[:-1], len(ids)], strict=False)]


def mergeable_ids(vocab: Mapping[str, int], merges: Iterable[str]) -> list[int] | None:
    """Ids of the pieces that merges reach, bytes first, where joining by lowest id is joining by merges; else None.

    Say that all merges below some id are done. Where two neighbours make up a token ``c`` then, no merge has reached over the
    ends of ``c``, so its bytes were merged as they are by themselves. So the same pair is found there in each text, and
    it suffices that this pair is in the file, that no other merge comes first, and that what it makes is not needed before.
    """
    single = [vocab.get(chr(letter)) for letter in byte_letters()]
    if None in single or len(set(vocab.values())) < len(vocab):
        return None
    base = [token for token in single if token is not None]
    pairs: dict[tuple[int, int], int] = {}
    splits: dict[int, tuple[int, int]] = {}
    last, known = max(base), set(base)
    for merge in merges:
        left, _, right = merge.partition(" ")
        first, second, made = vocab.get(left), vocab.get(right), vocab.get(left + right, -1)
        if made < last or first is None or second is None:
            return None
        last = made
        # What is made of a later token is never met: its bytes were all joined by then.
        if first in known and second in known:
            pairs[first, second] = made
            splits.setdefault(made, (first, second))
            known.add(made)
    letters = {token: piece for piece, token in vocab.items()}
    for made, (first, second) in splits.items():
        if _may_be_crossed(first, second, made, pairs, splits):
            halves = _merge_to_two([vocab[letter] for letter in letters[made]], pairs)
            if pairs.get(halves) != made:
                return None
            splits[made] = halves
    return [*base, *splits]


def _may_be_crossed(
    left: int, right: int, made: int, pairs: Mapping[tuple[int, int], int], splits: Mapping[int, tuple[int, int]]
) -> bool:
    """Whether a merge before ``made`` may join the end of what becomes ``left`` to the start of what becomes ``right``."""
    bound = made
    while True:
        if left >= right:
            if left not in splits:
                return False
            bound, left = left, splits[left][1]
        else:
            if right not in splits:
                return False
            bound, right = right, splits[right][0]
        found = pairs.get((left, right))
        if found is not None and found <= bound:
            return True


def _merge_to_two(ids: list[int], pairs: Mapping[tuple[int, int], int]) -> tuple[int, int]:
    """Joins the pair that makes the lowest id, the first of them, until two are left or none can be joined; gives the ends."""
    while len(ids) > 2:
        best, at = min((pairs.get(pair, _NONE), at) for at, pair in enumerate(pairwise(ids)))
        if best == _NONE:
            break
        ids[at : at + 2] = [best]
    return ids[0], ids[-1]
