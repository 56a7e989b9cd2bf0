"""Sharded models are the model: FSDP2, HSDP, tensor parallel and quantized, on four gloo processes."""

from __future__ import annotations

import multiprocessing
import runpy
from pathlib import Path

import pytest

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
