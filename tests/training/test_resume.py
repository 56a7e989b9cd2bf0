"""A run that is killed and resumed gives the losses of one that wasn't."""

from __future__ import annotations

import json
import multiprocessing
import runpy
import signal
import tempfile
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "workers" / "train.py"
# Runs are real processes, to be killed, forked from one that has imported what they need.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torchtune.training", "torchtune.models.llama3", "torchtune.config", "torchdata.stateful_dataloader"]
)


def start(base_dir: Path, out: Path, *options: str, processes: int = 1) -> list:
    meet = tempfile.mktemp(dir=out.parent, prefix="meet")  # processes meet in this file
    ranks = []
    for rank in range(processes):
        env = {"MEET": meet, "WORLD_SIZE": str(processes), "RANK": str(rank)}
        given = {"ARGUMENTS": [f"base={base_dir}", f"out={out}", *options], "ENV": env}
        ranks.append(CONTEXT.Process(target=runpy.run_path, args=(str(WORKER), given)))
        ranks[-1].start()
    return ranks


def finish(ranks: list, killed: bool = False) -> None:
    for process in ranks:
        process.join(timeout=180)
    assert {process.exitcode for process in ranks} == {-signal.SIGKILL if killed else 0}


def losses(out: Path, log: str = "losses") -> dict[int, float]:
    """Losses by step; a step that was run twice must have the same loss both times."""
    by_step: dict[int, float] = {}
    for line in (out / f"{log}.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert by_step.setdefault(row["step"], row["loss"]) == row["loss"]
    return by_step


# Five steps an epoch, a checkpoint every two steps: the kill comes in the middle of the second epoch, past a checkpoint.
@pytest.mark.parametrize(
    "options",
    [
        ("kind=full",),
        ("kind=lora", "adapter_only=1"),
        ("kind=full", "in_backward=1"),
        ("kind=full", "asynchronous=1"),
    ],
    ids=lambda options: "-".join(options),
)
def test_a_killed_run_resumes_with_the_same_losses_bit_for_bit(base_dir, tmp_path, options):
    whole = start(base_dir, tmp_path / "whole", *options)
    cut = start(base_dir, tmp_path / "cut", *options, "kill_at=9")
    finish(whole)
    finish(cut, killed=True)
    assert sorted(losses(tmp_path / "whole")) == list(range(1, 11))
    assert max(losses(tmp_path / "cut")) == 9
    finish(start(base_dir, tmp_path / "cut", *options, "resume=1"))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.distributed
def test_two_processes_train_as_one_and_one_goes_on_from_two(base_dir, tmp_path):
    one = start(base_dir, tmp_path / "one", "batch_size=4")
    two = start(base_dir, tmp_path / "two", "batch_size=2", "kill_at=9", processes=2)
    finish(one)
    finish(two, killed=True)
    finish(start(base_dir, tmp_path / "two", "batch_size=4", "resume=1", "log=second"))
    first, second = losses(tmp_path / "two"), losses(tmp_path / "two", "second")
    assert (max(first), min(second)) == (9, 9)
    expected = losses(tmp_path / "one")
    assert {**first, **second} == pytest.approx(expected, abs=1e-5)
    assert first[9] == pytest.approx(second[9], abs=1e-5)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_resume_an_adapter_that_was_saved_by_rank(base_dir, tmp_path):
    options = ("kind=lora", "asynchronous=1", "batch_size=2")
    whole = start(base_dir, tmp_path / "whole", *options, processes=2)
    cut = start(base_dir, tmp_path / "cut", *options, "kill_at=9", processes=2)
    finish(whole)
    finish(cut, killed=True)
    finish(start(base_dir, tmp_path / "cut", *options, "resume=1", processes=2))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
