"""Whether tiktoken and the Rust ``tokenizers`` give the same ids on random texts, with a byte-level vocabulary.

python benchmarks/same_ids.py --vocab FOLDER [--count N] [--seed S]

FOLDER holds vocab.json and merges.txt, or qwen.tiktoken, which they are made of. Texts are made of what splits words and of
what normalization changes: pieces of the vocabulary, white space, digits, contractions, characters of all planes, combining
marks, Korean letters, long repetitions. Each is encoded at once, and cut in parts that are encoded as one. Ends with 1 at the
first text on which they differ.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from _common import byte_level_files

from torchtune.models.qwen2._tokenizer import PRETOKENIZE_REGEX
from torchtune.modules.transforms.tokenizers._bpe import ByteLevelBPE, share_by_start

_SPACES = " \t\n\r\x0b\x0c\x85\xa0\u2003\u2028\u3000"
_WORDS = [
    "don't",
    "I'LL",
    "we'ſ",
    "'S",
    "it's",
    "{'a': 1}",
    '{"name": "f"}',
    "<|im_end|>",
    "</tool_call>",
    "éé",
    "ﬁn",
    "ǅ",
    "Ⅷ",
]
_PLANES = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x900, 0xE00), (0x1100, 0x1200), (0x1E00, 0x2100),
           (0x3040, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xE000, 0x10000), (0x1D100, 0x1D200), (0x1F300, 0x1FB00),
           (0x20000, 0x110000)]  # fmt: skip


def makers(pieces: list[str], rng: random.Random) -> list[Callable[[], str]]:
    """Ways to make a stretch of text."""

    def some(alphabet: str, most: int) -> str:
        return "".join(rng.choices(alphabet, k=rng.randint(1, most)))

    def plane() -> str:
        low, high = rng.choice(_PLANES)
        return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 6)))

    return [
        lambda: rng.choice(pieces),
        lambda: rng.choice(pieces) + " ",
        lambda: rng.choice(_WORDS),
        lambda: some(_SPACES, 5),
        lambda: " " * rng.randint(1, 12),
        lambda: some("\n ", 4),
        lambda: some("0123456789.,", 8),
        lambda: some("abcdefghijklmnopqrstuvwxyzABCDEFGH'", 10),
        lambda: some("{}[]()\"':,_-/\\<>|=+*#", 6),
        plane,
        lambda: rng.choice("aeiouAEIOUnsz한ᄀ") + some("\u0301\u0308\u0327\u0323\u1161\u11a8", 3),
        lambda: rng.choice([*"a =-\n.", *pieces]) * rng.choice([2, 3, 7, 30, 200]) if rng.random() < 0.2 else " ",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=Path, required=True, help="folder with the vocabulary")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = (args.vocab / "vocab.json", args.vocab / "merges.txt")
        if not files[0].exists():
            files = byte_level_files(args.vocab / "qwen.tiktoken", Path(scratch))
        bpe = ByteLevelBPE(*map(str, files), PRETOKENIZE_REGEX, nfc=True)
        _ = bpe.rust
    if bpe._core is None:
        raise SystemExit("This vocabulary is not one for tiktoken: tokenizers encodes it.")
    rng = random.Random(args.seed)
    pieces = [
        text for token in sorted(bpe._bytes) if "\ufffd" not in (text := bpe.spell([token]).decode(errors="replace"))
    ]
    make, tokens = makers(pieces, rng), 0
    for number in range(args.count):
        stretches = [rng.choice(make)() for _ in range(rng.randint(1, 12))]
        text = "".join(stretches)
        found = bpe.rust.encode(text)
        parts = share_by_start([start for start, _ in found.offsets], found.ids, map(len, stretches))
        if bpe.encode(text) != found.ids or bpe.encode_parts(stretches) != parts:
            print(f"Text {number} differs: {stretches!a}")
            sys.exit(1)
        tokens += len(found.ids)
    print(f"{args.count:,} texts, {tokens:,} tokens: the same ids, whole and in parts")


if __name__ == "__main__":
    main()
