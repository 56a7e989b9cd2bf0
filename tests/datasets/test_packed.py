"""Tests of packing and of concatenation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchtune.datasets import ConcatDataset, PackedDataset, TextCompletionDataset


def samples(*lengths: int) -> list[dict[str, list[int]]]:
    """Samples whose token ids go on from one to the next, with labels 1000 higher."""
    out, first = [], 1
    for length in lengths:
        ids = list(range(first, first + length))
        out.append({"tokens": ids, "labels": [1000 + i for i in ids]})
        first += length
    return out


def contents(packs: PackedDataset) -> list[list[list[int]]]:
    """Of each pack the tokens of its stretches, without the padding."""
    out = []
    for i in range(len(packs)):
        pack = packs[i]
        pieces = [piece.tolist() for piece in pack["tokens"].split(pack["seq_lens"].tolist())]
        out.append([piece for piece in pieces if piece[0] != packs.padding_idx])
    return out


def test_a_sample_that_does_not_fit_goes_to_the_next_pack() -> None:
    packs = PackedDataset(samples(3, 4, 5), max_seq_len=10)
    assert contents(packs) == [[[1, 2, 3], [4, 5, 6, 7]], [[8, 9, 10, 11, 12]]]
    first = packs[0]
    assert first["tokens"].tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 0, 0]
    assert first["labels"].tolist() == [1001, 1002, 1003, 1004, 1005, 1006, 1007, -100, -100, -100]
    assert first["input_pos"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]
    assert first["seq_lens"].tolist() == [3, 4, 3]
    assert {value.dtype for value in first.values()} == {torch.int64}


def test_a_split_sample_goes_on_in_the_next_pack_with_its_positions() -> None:
    packs = PackedDataset(samples(4, 4, 4), max_seq_len=10, split_across_pack=True)
    assert contents(packs) == [[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]], [[11, 12]]]
    # Positions of padding go on, but never beyond the last one there is.
    assert packs[1]["input_pos"].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 9, 9]


def test_a_sample_longer_than_packs_starts_its_positions_anew_in_each() -> None:
    packs = PackedDataset(samples(25, 3), max_seq_len=10, split_across_pack=True)
    assert [pack["seq_lens"].tolist() for pack in (packs[0], packs[1], packs[2])] == [[10], [10], [5, 3, 2]]
    assert packs[2]["input_pos"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_a_sample_too_long_is_refused_unless_it_may_be_split() -> None:
    with pytest.raises(ValueError, match=r"Dataset sample is too long \(12 > 10\): sample 1"):
        PackedDataset(samples(3, 12), max_seq_len=10)


@pytest.mark.parametrize("split", [True, False])
def test_max_packs_ends_the_packing(split: bool) -> None:
    read = []

    class Counted(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> dict[str, list[int]]:
            read.append(index)
            return {"tokens": [1] * 6, "labels": [1] * 6}

    assert len(PackedDataset(Counted(), max_seq_len=10, max_packs=2, split_across_pack=split)) == 2
    assert len(read) < 6


def test_samples_without_tokens_leave_no_trace() -> None:
    """An empty text still has the one label -100; neither that nor a length of 0 may get into a pack."""
    empty = {"tokens": [], "labels": [-100]}
    first, second = samples(3, 4)
    for split in (True, False):
        packs = PackedDataset([empty, first, empty, second, empty], max_seq_len=8, split_across_pack=split)
        assert packs[0]["seq_lens"].tolist() == [3, 4, 1]
        assert packs[0]["labels"].tolist() == [*first["labels"], *second["labels"], -100]
    assert len(PackedDataset([empty], max_seq_len=8)) == 0


def test_tokens_and_labels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="Sample 1 has 2 tokens but 1 labels"):
        PackedDataset([*samples(3), {"tokens": [1, 2], "labels": [1]}], max_seq_len=10)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 25), max_size=30), size=st.integers(1, 12), split=st.booleans())
def test_packs_hold_every_token_once_and_in_order(lengths: list[int], size: int, split: bool) -> None:
    data = samples(*lengths) if split else samples(*(length for length in lengths if length <= size))
    packs = PackedDataset(data, max_seq_len=size, split_across_pack=split)
    tokens, labels = [], []
    for i in range(len(packs)):
        pack = packs[i]
        assert pack["seq_lens"].sum() == size and (pack["seq_lens"] > 0).all()
        assert pack["input_pos"].max() < size
        real = pack["tokens"] != 0
        assert real[: int(real.sum())].all()
        tokens += pack["tokens"][real].tolist()
        labels += pack["labels"][real].tolist()
        assert (pack["labels"][~real] == -100).all()
    assert tokens == [t for s in data for t in s["tokens"]]
    assert labels == [t for s in data for t in s["labels"]]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 12), max_size=40))
def test_best_fit_keeps_samples_whole_and_needs_no_more_packs(lengths: list[int]) -> None:
    data = samples(*lengths)
    packs = PackedDataset(data, max_seq_len=12, packing="best_fit")
    found = [piece for pack in contents(packs) for piece in pack]
    assert sorted(found) == sorted(s["tokens"] for s in data if s["tokens"])
    assert len(packs) <= len(PackedDataset(data, max_seq_len=12))


def test_best_fit_fills_packs_that_order_leaves_open() -> None:
    data = samples(7, 6, 3, 4)
    assert len(PackedDataset(data, max_seq_len=10)) == 3
    assert contents(PackedDataset(data, max_seq_len=10, packing="best_fit")) == [
        [data[0]["tokens"], data[2]["tokens"]],
        [data[1]["tokens"], data[3]["tokens"]],
    ]


@pytest.mark.parametrize("options", [{"packing": "best_fit", "split_across_pack": True}, {"packing": "first"}])
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="packing"):
        PackedDataset(samples(3), max_seq_len=10, **options)


def test_negative_indexes_count_from_the_end_and_others_raise() -> None:
    packs = PackedDataset(samples(6, 6), max_seq_len=10)
    assert torch.equal(packs[-1]["tokens"], packs[1]["tokens"])
    with pytest.raises(IndexError):
        packs[2]


def test_concatenated_datasets_follow_each_other_and_end() -> None:
    parts = [samples(1), [], samples(2, 3)]
    joined = ConcatDataset(parts)  # type: ignore[arg-type]
    assert len(joined) == 3
    assert list(joined) == [*parts[0], *parts[2]]
    assert joined[-1] == parts[2][1]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"index {index} is out of range for 3 samples"):
            joined[index]


def test_packed_and_unpacked_datasets_do_not_mix() -> None:
    packs = PackedDataset(samples(3), max_seq_len=10)
    assert ConcatDataset([packs, ConcatDataset([packs])]).packed
    assert not ConcatDataset([samples(3)]).packed  # type: ignore[list-item]
    with pytest.raises(ValueError, match="these are not packed: 1 "):
        ConcatDataset([packs, samples(3)])  # type: ignore[list-item]


def test_a_cache_is_used_until_the_dataset_gives_other_tokens(tmp_path: Any) -> None:
    data = samples(7, 6, 3, 4)
    folder = tmp_path / "cache"
    for packing in ("in_order", "best_fit"):
        plain = contents(PackedDataset(data, max_seq_len=10, packing=packing))
        assert contents(PackedDataset(data, max_seq_len=10, packing=packing, cache_dir=folder)) == plain
    written = (folder / "tokens.i32").stat().st_mtime_ns
    PackedDataset(data, max_seq_len=10, cache_dir=folder)
    assert (folder / "tokens.i32").stat().st_mtime_ns == written
    other = [*data[:3], {"tokens": [9] * 4, "labels": [9] * 4}]
    assert contents(PackedDataset(other, max_seq_len=10, cache_dir=folder))[-1][-1] == [9] * 4


def test_a_cache_is_written_anew_when_any_row_or_file_changes(tmp_path: Path) -> None:
    rows, folder = tmp_path / "rows.jsonl", tmp_path / "cache"

    def packed(letter: str, **options: Any) -> list[list[list[int]]]:
        texts = ["abc"] * 500
        texts[57] = letter * 3
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        data = TextCompletionDataset(Letters(), str(rows), **options)
        both = ConcatDataset([data, data])
        assert contents(PackedDataset(both, max_seq_len=3000)) == contents(
            packs := PackedDataset(both, max_seq_len=3000, cache_dir=folder)
        )
        return contents(packs)

    assert packed("x") != packed("y") != packed("y", filter_fn=lambda row: row["text"] != "yyy")
    written = (folder / "tokens.i32").read_bytes()
    packed("y")
    (folder / "tokens.i32").write_bytes(written[:100])
    packed("y")


class Letters:
    """A tokenizer whose tokens are the letters."""

    max_seq_len = None

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        return list(text.encode())


def test_several_processes_make_the_same_packs() -> None:
    data = samples(*range(1, 9))
    packs = PackedDataset(data, max_seq_len=10, num_workers=2)
    assert contents(packs) == contents(PackedDataset(data, max_seq_len=10))
