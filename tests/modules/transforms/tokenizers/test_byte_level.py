"""Byte-level BPE: tiktoken encodes it only where the Rust tokenizers would give the same ids."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchtune.models.qwen2._tokenizer import PRETOKENIZE_REGEX
from torchtune.modules.transforms.tokenizers._bpe import ByteLevelBPE, byte_letters, mergeable_ids, share_by_start

LETTERS = {chr(letter): byte for letter, byte in byte_letters().items()}
TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("ab '\n \u0301\u0308\u1100\u1161é0"), max_size=40)
quick = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


def made(folder: Path, merges: list[str], vocab: dict[str, int] | None = None) -> ByteLevelBPE:
    """The BPE of some merges; ids are those of the bytes and then of the merges, in order, if none are given."""
    if vocab is None:
        vocab = dict(LETTERS)
        for merge in merges:
            vocab.setdefault(merge.replace(" ", ""), len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return ByteLevelBPE(str(folder / "vocab.json"), str(folder / "merges.txt"), PRETOKENIZE_REGEX)


@pytest.fixture(scope="module")
def trained(bpe_folder: Path) -> ByteLevelBPE:
    return ByteLevelBPE(str(bpe_folder / "vocab.json"), str(bpe_folder / "merges.txt"), PRETOKENIZE_REGEX, nfc=True)


@quick
@given(texts=st.lists(TEXT, max_size=6))
def test_ids_are_those_of_the_rust_tokenizer_whole_and_in_parts(trained: ByteLevelBPE, texts: list[str]) -> None:
    found = trained.rust.encode("".join(texts))
    assert trained._core is not None
    assert trained.encode("".join(texts)) == found.ids
    expected = share_by_start([start for start, _ in found.offsets], found.ids, map(len, texts))
    assert trained.encode_parts(texts) == expected


def test_merges_that_nobody_trained_are_either_refused_or_give_the_same_ids(tmp_path: Path) -> None:
    rng, kinds = random.Random(0), {True: 0, False: 0}
    for _ in range(400):
        pieces, merges = list("ab"), []
        for _ in range(rng.randint(2, 9)):
            pair = rng.choice(pieces), rng.choice(pieces)
            merges.append(" ".join(pair))
            pieces.append("".join(pair))
        bpe = made(tmp_path, list(dict.fromkeys(merges)))
        kinds[bpe._core is not None] += 1
        for _ in range(12):
            text = "".join(rng.choices("ab", k=rng.randint(1, 30)))
            assert bpe.encode(text) == bpe.rust.encode(text).ids, (merges, text)
    assert min(kinds.values()) > 40, kinds


@pytest.mark.parametrize(
    ("merges", "good"),
    [
        (["a b", "b c", "ab c"], True),
        (["a b", "b c", "a bc"], False),  # "abc" is (ab)(c) by the time that (a)(bc) may be joined
        (["a a", "aa a", "aa aa"], True),
        (["a a", "aa a", "aaa a"], False),  # "aaaa" is (aa)(aa), which no merge joins
        (["a a", "a aa"], False),  # of three, the first two are joined first
        (["a b", "b x", "x y", "ab xy"], True),
        (["b x", "a b", "x y", "ab xy"], False),
    ],
)
def test_a_token_must_be_made_of_what_its_bytes_merge_to(tmp_path: Path, merges: list[str], good: bool) -> None:
    bpe = made(tmp_path, merges)
    assert (bpe._core is not None) is good
    for text in ("abc", "aaaa", "aaaaa", "aaa", "abxy", "babcxyab"):
        assert bpe.encode(text) == bpe.rust.encode(text).ids


def test_all_ways_to_make_a_token_may_be_listed(trained: ByteLevelBPE, bpe_folder: Path) -> None:
    vocab = json.loads((bpe_folder / "vocab.json").read_text(encoding="utf-8"))
    every = [
        f"{piece[:at]} {piece[at:]}"
        for piece in sorted(vocab, key=vocab.__getitem__)
        for at in range(1, len(piece))
        if piece[:at] in vocab and piece[at:] in vocab
    ]
    merges = (bpe_folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert len(every) > len(merges)
    assert mergeable_ids(vocab, every) == mergeable_ids(vocab, merges)


def test_ids_must_rise_and_every_byte_must_have_one(tmp_path: Path) -> None:
    merges = ["a b", "b c"]
    vocab = {**LETTERS, "bc": 256, "ab": 257}
    assert mergeable_ids(vocab, merges) is None
    assert made(tmp_path, merges, vocab).encode("abc") == [257, LETTERS["c"]]
    del vocab["z"]
    assert mergeable_ids({**vocab, "ab": 300, "bc": 301}, merges) is None


def test_a_piece_that_no_merge_makes_is_never_found_in_text(tmp_path: Path) -> None:
    bpe = made(tmp_path, ["a b"], {**LETTERS, "ab": 256, "cd": 257})
    assert bpe._core is not None
    assert bpe.encode("cd") == [LETTERS["c"], LETTERS["d"]] == bpe.rust.encode("cd").ids
    assert bpe.spell([257, 256]) == b"cdab"


def test_stretches_that_tiktoken_cannot_take_are_encoded_all_the_same(trained: ByteLevelBPE) -> None:
    text = "ab" * 40_000 + " end"
    assert trained.encode(text) == trained.rust.encode(text).ids
    assert sum(trained.encode_parts([text, "x"]), []) == trained.rust.encode(text + "x").ids


def test_a_vocabulary_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("[1]")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match="vocab.json must be a JSON object"):
        ByteLevelBPE(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), PRETOKENIZE_REGEX)
