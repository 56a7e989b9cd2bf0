"""Sharded models are the model: FSDP2, HSDP, tensor parallel and quantized, on four gloo processes."""

from __future__ import annotations

import multiprocessing
import runpy
from pathlib import Path

import pytest
import torch

from torchtune import training

WORKER = Path(__file__).parent / "workers" / "sharding.py"
CONTEXT = multiprocessing.get_context("forkserver")


@pytest.mark.distributed
def test_sharded_models_load_compute_clip_and_gather_as_one_process_does(tmp_path):
    meet = str(tmp_path / "meet")
    ranks = [CONTEXT.Process(target=runpy.run_path, args=(str(WORKER), {"MEET": meet, "RANK": n})) for n in range(4)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0] * 4


def test_the_state_of_another_optimizer_is_told() -> None:
    layer = torch.nn.Linear(2, 2)
    saved = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    saved.step()
    for other, lacks in (
        (torch.optim.SGD(layer.parameters()), "momentum"),
        (torch.optim.Adadelta(layer.parameters()), "rho"),
    ):
        with pytest.raises(ValueError, match=f"another optimizer than {type(other).__name__}: it lacks .*{lacks}"):
            training.load_from_full_optimizer_state_dict(layer, other, saved.state_dict(), torch.device("cpu"))
    training.load_from_full_optimizer_state_dict(
        layer, torch.optim.AdamW(layer.parameters(), lr=1.0), saved.state_dict(), torch.device("cpu")
    )
