"""Tests of how rows are read: local JSON as it is, slices, filters, and where a row comes from."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchtune.datasets._rows import JsonRows, load_rows, place_of

TEN = [{"n": n} for n in range(10)]


def numbers(rows: Any) -> list[int]:
    return [rows[i]["n"] for i in range(len(rows))]


def test_rows_of_different_shapes_stay_as_they_are(write_rows: Callable[..., str]) -> None:
    """Arrow would pad the objects with nulls, or refuse the third row."""
    rows: list[dict[str, Any]] = [
        {"tools": [{"name": "f", "parameters": {"a": {"type": "string"}}}], "when": "2024-01-02T03:04:05"},
        {"tools": [{"name": "g", "parameters": {"b": {"default": None}}}]},
        {"tools": "[]", "x": 1.0},
    ]
    assert list(load_rows("json", data_files=write_rows(rows), split="train")) == rows


@pytest.mark.parametrize("layout", ["lines", "list", "pretty list", "field", "byte order mark", "no last newline"])
def test_every_layout_of_a_file_gives_the_same_rows(write_rows: Callable[..., str], layout: str) -> None:
    rows = [{"n": 0, "text": 'a "quoted" [, ] ü\u2028\U0001f600'}, {"n": 1, "deep": [[{"k": []}]]}]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = {
        "lines": lines.replace("\n", "\r\n") + "\r\n",
        "list": json.dumps(rows, ensure_ascii=False),
        "pretty list": "\n " + json.dumps(rows, indent=2),
        "field": json.dumps({"version": {"data": [1]}, "data": rows, "more": 1}),
        "byte order mark": "\ufeff" + lines,
        "no last newline": lines,
    }[layout]
    options = {"field": "data"} if layout == "field" else {}
    loaded = load_rows("json", data_files=write_rows(text, "rows.json"), split="train", **options)
    assert [loaded[i] for i in range(len(loaded))] == rows


def test_a_path_alone_is_a_source(write_rows: Callable[..., str]) -> None:
    assert numbers(load_rows(write_rows(TEN))) == list(range(10))


def test_several_files_and_patterns_follow_each_other(write_rows: Callable[..., str], tmp_path: Path) -> None:
    write_rows(TEN[:4], "a.jsonl"), write_rows(json.dumps(TEN[4:]), "b.json")
    assert numbers(load_rows("json", data_files=str(tmp_path / "*.json*"))) == list(range(10))
    rows = load_rows("json", data_files=[str(tmp_path / "b.json"), str(tmp_path / "a.jsonl")])
    assert place_of(rows, 6) == "row 1 of a.jsonl" and numbers(rows)[:2] == [4, 5]


@pytest.mark.parametrize(
    "split",
    [
        "train",
        "train[:3]",
        "train[3:]",
        "train[-3:]",
        "train[2:-2]",
        "train[:5%]",
        "train[5%:]",
        "train[33%:66%]",
        "train[-15%:]",
        "train[:33%](pct1_dropremainder)",
        "train[:100]",
        "train[7:3]",
        "train[:2]+train[8:]",
        "test+train[:1]",
    ],
)
def test_slices_of_splits_mean_what_they_mean_in_datasets(write_rows: Callable[..., str], split: str) -> None:
    from datasets import ReadInstruction

    sizes = {"train": 137, "test": 3}
    offsets = {"train": 0, "test": 1000}
    files = {s: write_rows([{"n": offsets[s] + n} for n in range(sizes[s])], f"{s}.jsonl") for s in sizes}
    expected = []
    for part in ReadInstruction.from_spec(split).to_absolute(sizes):
        expected += [offsets[part.splitname] + n for n in range(part.from_ or 0, part.to or 0)]
    assert numbers(load_rows("json", data_files=files, split=split)) == expected


def test_splits_must_be_chosen_and_exist(write_rows: Callable[..., str]) -> None:
    files = {"train": write_rows(TEN, "a.jsonl"), "test": write_rows(TEN, "b.jsonl")}
    with pytest.raises(ValueError, match="splits train, test: choose one"):
        load_rows("json", data_files=files)
    with pytest.raises(ValueError, match="no split 'validation'; data_files has 'train', 'test'"):
        load_rows("json", data_files=files, split="validation")
    with pytest.raises(ValueError, match="is not a split such as"):
        load_rows("json", data_files=files, split="train[1")


def test_a_row_is_named_by_its_line_also_after_slicing_and_filtering(write_rows: Callable[..., str]) -> None:
    path = write_rows("\n" + "\n\n".join(json.dumps(row) for row in TEN))
    rows = load_rows("json", data_files=path, split="train[2:]", filter_fn=lambda row: row["n"] % 2)
    assert numbers(rows) == [3, 5, 7, 9]
    assert place_of(rows, 0) == "row 8 of rows.jsonl"
    assert place_of(rows, -1) == "row 20 of rows.jsonl"


def test_filter_takes_the_arguments_of_datasets(write_rows: Callable[..., str]) -> None:
    path = write_rows(TEN)
    kwargs = {"input_columns": "n", "fn_kwargs": {"least": 7}, "num_proc": 2}
    rows = load_rows("json", data_files=path, filter_fn=lambda n, least: n >= least, filter_kwargs=kwargs)
    assert numbers(rows) == [7, 8, 9]
    kwargs = {"with_indices": True}
    rows = load_rows("json", data_files=path, filter_fn=lambda row, i: i == 4, filter_kwargs=kwargs)
    assert numbers(rows) == [4]
    with pytest.raises(ValueError, match="batched is not supported"):
        load_rows("json", data_files=path, filter_fn=lambda rows: rows, filter_kwargs={"batched": True})


def test_rows_can_be_sent_to_another_process(write_rows: Callable[..., str]) -> None:
    rows = load_rows("json", data_files=write_rows(TEN), split="train[5:]")
    assert rows[0] == {"n": 5}
    assert numbers(pickle.loads(pickle.dumps(rows))) == [5, 6, 7, 8, 9]


def test_indexes_beyond_the_rows_raise_and_iteration_ends(write_rows: Callable[..., str]) -> None:
    rows = JsonRows([write_rows(TEN)])
    assert rows[-1] == {"n": 9} and len(list(rows)) == 10
    with pytest.raises(IndexError):
        rows[10]


@pytest.mark.parametrize(
    ("text", "name", "phrase"),
    [
        ('{"n": 1}\n{"n": }\n', "rows.jsonl", r"row 2 of rows.jsonl: not JSON: Expecting value at character 7"),
        ('{"n": 1}\n[1]\n', "rows.jsonl", "row 2 of rows.jsonl: a row must be an object, but this is list"),
        ('[{"n": 1}, {"n": ]', "rows.json", "row 2 of rows.json: not JSON"),
        ('[{"n": 1} {"n": 2}]', "rows.json", "expected ',' or ']' after row 1"),
        ('[{"n": 1}', "rows.json", "after row 1, found the end of the file"),
        ('{\n "data": [\n  {"n": 1}\n ]\n}\n', "rows.json", "one object; expected an object per line.*field='data'"),
        ("[" * 100_000, "rows.json", "row 1 of rows.json: not JSON: nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused_with_its_row(
    write_rows: Callable[..., str], text: str, name: str, phrase: str
) -> None:
    with pytest.raises(ValueError, match=phrase):
        list(JsonRows([write_rows(text, name)]))


def test_wrong_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"n": 1}\n'.encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16; save it as UTF-8"):
        load_rows(str(path))
    path.write_bytes(b'{"n": 1}\n{"n": "\xff"}\n')
    rows = load_rows(str(path))
    assert rows[0] == {"n": 1}
    with pytest.raises(ValueError, match="row 2 of rows.jsonl: not JSON: .*byte 0xff"):
        rows[1]


def test_a_missing_field_or_file_is_named(write_rows: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no list under the field 'rows'"):
        load_rows("json", data_files=write_rows('{"data": []}', "a.json"), field="rows")
    with pytest.raises(FileNotFoundError, match="nothing.jsonl"):
        load_rows("json", data_files=str(tmp_path / "nothing.jsonl"))


def test_an_empty_file_has_no_rows(write_rows: Callable[..., str]) -> None:
    assert len(load_rows("json", data_files=write_rows("\n \n"))) == 0
    assert len(load_rows("json", data_files=write_rows("", "b.jsonl"))) == 0


def test_other_sources_go_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in TEN).encode()))
    options = {"data_files": str(path), "cache_dir": str(tmp_path)}
    rows = load_rows("json", split="train[:5]", filter_fn=lambda row: row["n"] > 2, **options)
    assert numbers(rows) == [3, 4]
    assert place_of(rows, 1) == "row 5 of json (train[:5])"
    assert numbers(load_rows("json", **options)) == list(range(10))


def test_a_file_changed_while_in_use_is_told(write_rows: Callable[..., str]) -> None:
    rows = load_rows(write_rows([{"n": 1}, {"n": 2, "more": "x" * 50}]))
    assert rows[0] == {"n": 1}
    write_rows([{"n": 3}])
    with pytest.raises(
        ValueError, match=r"row 2 of rows.jsonl: not JSON: .*; the file was changed after it was opened"
    ):
        rows[1]
