"""Data are dealt out evenly, and reading goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from torchtune.datasets import StreamingDataset
from torchtune.training import (
    ResumableSampler,
    build_dataloader,
    check_validation_ends,
    load_loader_state,
    loader_state,
    set_epoch,
    steps_per_epoch,
)


class Rows(torch.utils.data.Dataset):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict:
        assert 0 <= index < self.n
        return {"tokens": [index], "labels": [index]}


class Stream(torch.utils.data.IterableDataset):
    """Rows from a stream that knows its position."""

    def __init__(self, n: int) -> None:
        self.n, self.position = n, 0

    def __iter__(self):
        while self.position < self.n:
            self.position += 1
            yield {"tokens": [self.position], "labels": [self.position]}
        self.position = 0

    def state_dict(self) -> dict:
        return {"position": self.position}

    def load_state_dict(self, state: dict) -> None:
        self.position = state["position"]


def collate(rows: list[dict]) -> list[int]:
    return [row["labels"][0] for row in rows]


def loader(n: int = 20, **options):
    options = {"batch_size": 3, "collate_fn": collate, "seed": 7, **options}
    return build_dataloader(Rows(n), **options)


def epoch(data, number: int) -> list[list[int]]:
    set_epoch(data, number)
    return list(data)


def test_epochs_have_different_orders_that_depend_on_the_seed_alone():
    data = loader()
    first, second = epoch(data, 0), epoch(data, 1)
    assert first != second
    torch.manual_seed(123)
    assert epoch(loader(), 1) == second
    assert epoch(loader(seed=8), 0) != first


def test_reading_does_not_move_the_models_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    epoch(loader(), 0)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("read", [0, 1, 4, 6])
def test_a_saved_position_gives_the_rest_of_the_epoch_and_the_next(read, num_workers):
    whole = loader(num_workers=num_workers)
    expected = epoch(whole, 1)[read:], epoch(whole, 2)
    data = loader(num_workers=num_workers)
    set_epoch(data, 1)
    batches = iter(data)
    for _ in range(read):
        next(batches)
    state = data.state_dict()
    resumed = loader(num_workers=num_workers)
    resumed.load_state_dict(state)
    # All of an epoch read, but not asked beyond its end: what is left of it is nothing.
    assert (epoch(resumed, 1), epoch(resumed, 2)) == expected


def test_the_state_of_a_loader_survives_a_file(tmp_path):
    data = loader()
    set_epoch(data, 1)
    batches = iter(data)
    next(batches)
    torch.save(data.state_dict(), tmp_path / "state.pt")
    resumed = loader()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert epoch(resumed, 1) == list(batches)


def test_a_stream_goes_on_where_it_stopped():
    data = build_dataloader(Stream(20), batch_size=3, collate_fn=collate)
    batches = iter(data)
    next(batches)
    state = data.state_dict()
    resumed = build_dataloader(Stream(20), batch_size=3, collate_fn=collate)
    resumed.load_state_dict(state)
    assert list(resumed) == list(batches)


def test_ranks_together_read_what_one_process_reads():
    one = epoch(loader(22, batch_size=6), 3)
    two = [epoch(loader(22, num_replicas=2, rank=rank), 3) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]


def test_validation_reads_every_row_once_and_fills_up_with_rows_without_labels():
    batches = [epoch(loader(11, num_replicas=2, rank=rank, drop_last=False, shuffle=False), 0) for rank in (0, 1)]
    assert [len(batch) for batch in batches[0]] == [len(batch) for batch in batches[1]]
    read = [label for rank in batches for batch in rank for label in batch]
    assert sorted(label for label in read if label != -100) == list(range(11))
    assert read.count(-100) == 1


def test_filler_rows_keep_their_kind_of_labels():
    class Tensors(Rows):
        def __getitem__(self, index: int) -> dict:
            return {"labels": torch.full((4,), index)}

    data = build_dataloader(
        Tensors(1), batch_size=1, collate_fn=lambda rows: rows[0]["labels"], num_replicas=2, rank=1, drop_last=False
    )
    (batch,) = list(data)
    assert torch.equal(batch, torch.full((4,), -100))


def test_a_position_of_two_ranks_is_one_for_four():
    reader = ResumableSampler(Rows(20), num_replicas=2, rank=0, seed=1)
    indices = iter(reader)
    for _ in range(4):
        next(indices)
    rest = []
    for rank in range(4):
        sampler = ResumableSampler(Rows(20), num_replicas=4, rank=rank, seed=1)
        sampler.load_state_dict(reader.state_dict())
        rest += list(sampler)
    order = [
        i for pair in zip(*(list(ResumableSampler(Rows(20), 2, r, seed=1)) for r in (0, 1)), strict=True) for i in pair
    ]
    assert sorted(rest) == sorted(order[8:])


def test_too_few_rows_say_what_to_do():
    with pytest.raises(ValueError, match="3 rows don't fill one batch of 2 on each of 2 rank.*Lower batch_size"):
        loader(3, batch_size=2, num_replicas=2)
    with pytest.raises(ValueError, match="0 rows"):
        loader(0)


class _Stream(torch.utils.data.IterableDataset):
    packed = repeat = True

    def __iter__(self):
        return iter(range(6))


def test_a_stream_needs_a_number_of_steps_and_takes_it_as_the_epoch() -> None:
    stream = build_dataloader(_Stream(), batch_size=2, collate_fn=list)
    with pytest.raises(ValueError, match="max_steps_per_epoch is not set, but the dataset is a stream"):
        steps_per_epoch(stream)
    assert steps_per_epoch(stream, max_steps=7) == 7
    fixed = build_dataloader(list(range(9)), batch_size=2, collate_fn=list)
    assert [steps_per_epoch(fixed), steps_per_epoch(fixed, 3), steps_per_epoch(fixed, 1, 3)] == [4, 2, 3]


def test_validation_on_a_stream_that_repeats_must_be_limited() -> None:
    stream = build_dataloader(_Stream(), batch_size=2, collate_fn=list)
    check_validation_ends(None, None)
    check_validation_ends(stream, 3)
    with pytest.raises(ValueError, match="set run_val_max_batches, or repeat: false"):
        check_validation_ends(stream, None)


def test_each_rank_of_a_stream_gets_its_own_state_back() -> None:
    loader = build_dataloader(_Stream(), batch_size=2, collate_fn=list)
    first = next(iter(loader))
    state = loader_state(loader)
    again = build_dataloader(_Stream(), batch_size=2, collate_fn=list)
    load_loader_state(again, {"ranks": [state]})
    assert first == [0, 1] and list(again) == [[2, 3], [4, 5]]
    with pytest.raises(ValueError, match=r"packed a stream on 2 rank\(s\), and this one has 1"):
        load_loader_state(again, {"ranks": [state, state]})


def test_a_resumed_run_whose_data_is_read_otherwise_goes_on_right_or_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"i": i}) + "\n" for i in range(20)))

    def made(rows: Any, workers: int = 0, state: Any = None) -> Any:
        data = list(range(rows)) if rows else StreamingDataset("json", data_files=str(tmp_path / "rows.jsonl"))
        loader = build_dataloader(data, batch_size=2, collate_fn=list, seed=3, num_workers=workers)
        if state is not None:
            load_loader_state(loader, state)
        return loader

    def stopped(rows: Any, workers: int = 0) -> Any:
        loader = made(rows, workers)
        for _ in zip(range(3), loader, strict=False):
            pass
        return loader_state(loader)

    whole = list(made(20))
    for before, after in ((0, 2), (2, 0)):
        assert list(made(20, after, stopped(20, before))) == whole[3:]
    assert not caplog.records
    list(made(22, 0, stopped(20)))
    assert "had 20 rows, now there are 22" in caplog.text
    with pytest.raises(ValueError, match="read rows by number, this config has a stream: set streaming: false"):
        made(None, 0, stopped(20))
    with pytest.raises(ValueError, match="read a stream, this config has rows by number: set streaming: true"):
        made(20, 0, stopped(None))
    with pytest.raises(ValueError, match="num_workers: 0, this config has 2: resume with as many"):
        made(None, 2, stopped(None))
