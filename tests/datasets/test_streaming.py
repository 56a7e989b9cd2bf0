"""Tests of streams: their order, their state, their shares."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchtune.datasets import (
    ConcatDataset,
    InterleavedDataset,
    PackedStream,
    StreamingDataset,
    chat_dataset,
    combine_datasets,
    instruct_dataset,
    preference_dataset,
    text_completion_dataset,
)
from torchtune.training import build_dataloader, set_epoch


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """103 rows with the numbers 0 to 102, over JSONL (with an empty line), a JSON list and Parquet in small row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("streams")
    rows = [{"n": n, "text": f"row {n}"} for n in range(103)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows[:40]), encoding="utf-8-sig")
    (folder / "b.json").write_text(json.dumps(rows[40:60]), encoding="utf-8")
    (folder / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows[90:]), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows[60:90]), folder / "c.parquet", row_group_size=7)
    return [str(folder / name) for name in ("a.jsonl", "b.json", "d.jsonl", "c.parquet")]


def number(row: Any) -> int:
    return row["n"]


def stream(files: list[str], **options: Any) -> StreamingDataset:
    return StreamingDataset("json", number, data_files=files[:3], **{"shuffle_buffer": 16, **options})


def test_rows_come_in_the_order_of_the_files_unless_they_are_shuffled(files: list[str]) -> None:
    numbers = [*range(60), *range(90, 103)]
    assert list(stream(files, shuffle=False)) == numbers
    shuffled = list(stream(files))
    assert sorted(shuffled) == numbers and shuffled != numbers
    assert list(stream(files)) == shuffled
    assert list(stream(files, seed=1)) != shuffled


def test_each_epoch_has_its_own_order(files: list[str]) -> None:
    data = stream(files)
    orders = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        orders.append(list(data))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_parquet_is_read_by_row_group(files: list[str]) -> None:
    assert list(StreamingDataset(files[3], number, shuffle=False)) == list(range(60, 90))


@settings(max_examples=40, deadline=None)
@given(stop=st.integers(0, 150), shuffle=st.booleans(), repeat=st.booleans(), kind=st.sampled_from(["json", "parquet"]))
def test_a_stream_goes_on_with_the_very_next_row(
    files: list[str], stop: int, shuffle: bool, repeat: bool, kind: str
) -> None:
    def make() -> StreamingDataset:
        source = {"json": files[:3], "parquet": files[3:]}[kind]
        return StreamingDataset(kind, number, data_files=source, shuffle=shuffle, shuffle_buffer=9, repeat=repeat)

    whole = list(islice(make(), 200))
    killed = make()
    before = list(islice(killed, stop))
    state = json.loads(json.dumps(killed.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert before + list(islice(resumed, 200 - len(before))) == whole


def test_rows_of_datasets_resume_too(files: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("n,text\n" + "".join(f"{n},row {n}\n" for n in range(50)))

    def make() -> StreamingDataset:
        return StreamingDataset("csv", number, data_files=str(path), split="train", shuffle_buffer=8)

    whole = list(make())
    assert sorted(whole) == list(range(50))
    for stop in (1, 8, 21):
        killed = make()
        assert list(islice(killed, stop)) == whole[:stop]
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(killed.state_dict())))
        assert list(resumed) == whole[stop:]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_loader_resumes_in_the_middle(files: list[str], workers: int, stop: int) -> None:
    def make() -> Any:
        return build_dataloader(
            stream(files), batch_size=3, collate_fn=list, seed=5, num_workers=workers, drop_last=False
        )

    loader = make()
    set_epoch(loader, 1)
    whole = list(loader)
    assert sorted(n for batch in whole for n in batch) == [*range(60), *range(90, 103)]
    killed = make()
    set_epoch(killed, 1)
    batches = iter(killed)
    assert [next(batches) for _ in range(stop)] == whole[:stop]
    resumed = make()
    resumed.load_state_dict(killed.state_dict())
    assert list(resumed) == whole[stop:]


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_get_as_many_rows_each_and_none_twice(files: list[str], ranks: int, workers: int) -> None:
    shares = []
    for rank in range(ranks):
        loader = build_dataloader(
            stream(files),
            batch_size=2,
            collate_fn=list,
            num_replicas=ranks,
            rank=rank,
            num_workers=workers,
            drop_last=False,
        )
        shares.append([n for batch in loader for n in batch])
    rows = [n for share in shares for n in share]
    assert {len(share) for share in shares} == {73 // ranks}
    assert len(set(rows)) == len(rows) == 73 // ranks * ranks


def test_ranks_together_see_the_rows_of_one_process_and_go_on_as_one(files: list[str]) -> None:
    whole = list(stream(files))
    ranks = []
    for rank in range(2):
        data = stream(files)
        data.split(2, rank)
        ranks.append(data)
    shares = [list(islice(data, 10)) for data in ranks]
    assert [n for pair in zip(*shares, strict=True) for n in pair] == whole[:20]
    assert ranks[0].state_dict() == ranks[1].state_dict()
    alone = stream(files)
    alone.load_state_dict(ranks[1].state_dict())
    assert list(alone) == whole[20:]


def test_a_stream_that_repeats_sees_all_rows_in_each_pass(files: list[str]) -> None:
    rows = list(islice(stream(files, repeat=True), 73 * 3))
    passes = [rows[at : at + 73] for at in (0, 73, 146)]
    assert all(sorted(one) == sorted(passes[0]) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_a_filter_keeps_rows(files: list[str]) -> None:
    assert list(stream(files, shuffle=False, filter_fn=lambda row: row["n"] % 10 == 0)) == [
        0,
        10,
        20,
        30,
        40,
        50,
        90,
        100,
    ]
    with pytest.raises(ValueError, match="There are no rows in 'json', or filter_fn keeps none"):
        next(iter(stream(files, repeat=True, filter_fn=lambda row: False)))


@pytest.mark.parametrize("weights", [[1, 1], [0.7, 0.3], [5, 2, 1], [0.99, 0.01]])
def test_interleaving_keeps_its_weights_at_all_times(files: list[str], weights: list[float]) -> None:
    parts = [
        StreamingDataset("json", lambda row, which=which: which, data_files=files[:2], repeat=True, shuffle_buffer=8)
        for which in range(len(weights))
    ]
    drawn = list(islice(InterleavedDataset(parts, weights), 2000))
    for count in (100, 1000, 2000):
        seen = Counter(drawn[:count])
        for which, weight in enumerate(weights):
            assert abs(seen[which] / count - weight / sum(weights)) <= 0.01


def test_interleaved_streams_resume_and_end_with_the_first(files: list[str]) -> None:
    def make() -> InterleavedDataset:
        parts = [
            StreamingDataset(path, number, shuffle_buffer=5, weight=w)
            for path, w in zip(files[:2], (3, 1), strict=True)
        ]
        return combine_datasets(parts)

    whole = list(make())
    assert Counter(n < 40 for n in whole) == {True: 40, False: 13}
    for stop in (0, 1, 17, 50):
        killed = make()
        assert list(islice(killed, stop)) == whole[:stop]
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(killed.state_dict())))
        assert list(resumed) == whole[stop:]


def test_streams_do_not_join_with_datasets_of_fixed_length(files: list[str]) -> None:
    assert isinstance(combine_datasets([[1], [2]]), ConcatDataset)
    with pytest.raises(ValueError, match=r"set streaming: true for 1 \(list\)"):
        combine_datasets([stream(files), [1]])
    with pytest.raises(ValueError, match="a weight above 0 for each dataset"):
        InterleavedDataset([stream(files)], [0])


def test_errors_name_file_and_row(write_rows: Callable[..., str], tokenizer: Any) -> None:
    path = write_rows('{"input": "a", "output": "b"}\n\n{"input": "a"\n[1]\n{"input": "a"}\n')
    data = instruct_dataset(tokenizer, source=path, streaming=True, repeat=False)
    data.order(False, 0)

    def fails_at(row: int) -> str:
        data.load_state_dict(
            {
                "epoch": 0,
                "dealt": 0,
                "flow": {"pass": 0, "rows": {"file": 0, "cursor": None, "window": 0, "taken": row}},
            }
        )
        with pytest.raises(ValueError) as error:
            next(iter(data))
        return str(error.value)

    assert fails_at(1).startswith("row 3 of rows.jsonl: not JSON")
    assert fails_at(2) == "row 4 of rows.jsonl: a row must be an object, but this is list"
    assert fails_at(3).startswith("row 5 of rows.jsonl: The row has no column 'output'")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "train[:10]"}, ValueError, "a stream has no length to cut at"),
        ({"data_files": "nowhere.jsonl"}, FileNotFoundError, "there is no file nowhere.jsonl"),
        ({"data_files": {"a": "x", "b": "y"}}, ValueError, "has the splits a, b: choose one"),
        ({"data_files": {"a": "x"}, "split": "train"}, ValueError, "There is no split 'train'"),
        ({"shuffle_buffer": 0}, ValueError, "shuffle_buffer must be 1 or more"),
    ],
)
def test_options_that_no_stream_can_keep_are_refused(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StreamingDataset("json", **options)


ROW = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good morning"}]}


def test_every_builder_streams_the_samples_that_it_gives_otherwise(
    write_rows: Callable[..., str], tokenizer: Any
) -> None:
    texts = [f"text {n}" for n in range(5)]
    kinds: list[tuple[Any, list[Any], dict[str, Any]]] = [
        (
            chat_dataset,
            [{**ROW, "n": n} for n in range(5)],
            {"conversation_column": "messages", "conversation_style": "openai"},
        ),
        (instruct_dataset, [{"input": text, "output": "yes"} for text in texts], {}),
        (text_completion_dataset, [{"text": text} for text in texts], {}),
        (preference_dataset, [{"chosen": ROW["messages"], "rejected": ROW["messages"]}], {}),
    ]
    for build, rows, options in kinds:
        path = write_rows(rows)
        fixed = build(tokenizer, source=path, **options)
        streamed = build(tokenizer, source=path, **options, streaming=True, repeat=False)
        streamed.order(False, 0)
        assert list(streamed) == [fixed[i] for i in range(len(fixed))]
        assert streamed.weight == 1


def test_options_of_streams_and_packs_need_these(write_rows: Callable[..., str], tokenizer: Any) -> None:
    path = write_rows([{"input": "a", "output": "b"}])
    with pytest.raises(ValueError, match="weight: for streams only; set streaming: true"):
        instruct_dataset(tokenizer, source=path, weight=2)
    with pytest.raises(ValueError, match="packing: for packed data only; set packed: true"):
        instruct_dataset(tokenizer, source=path, packing="best_fit")


def packed(path: str, tokenizer: Any, **options: Any) -> PackedStream:
    data = instruct_dataset(tokenizer, source=path, streaming=True, repeat=False, packed=True, **options)
    data.buffer_packs = 4
    return data


def test_a_packed_stream_keeps_samples_whole_and_resumes(write_rows: Callable[..., str], tokenizer: Any) -> None:
    tokenizer.max_seq_len = 64
    path = write_rows([{"input": "x" * (n % 23), "output": chr(97 + n % 26) * (1 + n * 7 % 37)} for n in range(60)])
    samples = [list(s["tokens"]) for s in instruct_dataset(tokenizer, source=path, streaming=True, repeat=False)]
    whole = [{k: v.tolist() for k, v in pack.items()} for pack in packed(path, tokenizer)]
    pieces = []
    for pack in whole:
        assert sum(pack["seq_lens"]) == 64
        at = 0
        for length in pack["seq_lens"]:
            pieces.append(pack["tokens"][at : at + length])
            assert pack["input_pos"][at] == 0 or pieces[-1] == [0] * length
            at += length
    assert sorted(p for p in pieces if any(p)) == sorted(samples)
    for stop in range(len(whole) + 1):
        killed = packed(path, tokenizer)
        list(islice(killed, stop))
        resumed = packed(path, tokenizer)
        resumed.load_state_dict(json.loads(json.dumps(killed.state_dict())))
        assert [pack["tokens"].tolist() for pack in resumed] == [pack["tokens"] for pack in whole[stop:]]


def test_a_packed_stream_begins_each_epoch_anew_and_resumes_in_it(
    write_rows: Callable[..., str], tokenizer: Any
) -> None:
    tokenizer.max_seq_len = 64
    path = write_rows([{"input": "x", "output": chr(97 + n % 26) * (1 + n * 7 % 37)} for n in range(60)])

    def second_epoch(data: PackedStream) -> list[list[int]]:
        data.order(True, 3)
        data.set_epoch(1)
        return [pack["tokens"].tolist() for pack in islice(data, 7)]

    expected = second_epoch(packed(path, tokenizer))
    cut = packed(path, tokenizer)
    cut.order(True, 3)
    list(islice(cut, 5))  # an epoch that ended in the middle of the rows, as max_steps_per_epoch lets it
    assert second_epoch(cut) == expected
    resumed = packed(path, tokenizer)
    resumed.order(True, 3)
    cut.set_epoch(1)
    list(islice(cut, 6))
    resumed.load_state_dict(json.loads(json.dumps(cut.state_dict())))
    assert next(iter(resumed))["tokens"].tolist() == expected[6]


def test_packed_streams_are_interleaved_before_they_are_packed(write_rows: Callable[..., str], tokenizer: Any) -> None:
    tokenizer.max_seq_len = 256
    paths = [write_rows([{"input": "", "output": c * 20}] * 40, f"{c}.jsonl") for c in "ab"]
    joined = combine_datasets([packed(path, tokenizer) for path in paths])
    assert isinstance(joined, PackedStream) and joined.packed
    first = next(iter(joined))["tokens"].tolist()
    assert abs(first.count(ord("a")) - first.count(ord("b"))) <= 20


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = json.dumps({"text": "x" * 200})
    path.write_text(f"{row}\n" * 200_000)
    code = f"""
import resource
from torchtune.datasets import StreamingDataset
peaks = []
for n, _ in enumerate(StreamingDataset({str(path)!r}, shuffle_buffer=2000)):
    if n in (20_000, 199_999):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 3000  # KiB; the file has 42,000
