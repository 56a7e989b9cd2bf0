"""Sharded models are the model: FSDP2, HSDP, tensor parallel and quantized, on four gloo processes."""

from __future__ import annotations

import multiprocessing
import runpy
import socket
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "workers" / "sharding.py"
CONTEXT = multiprocessing.get_context("forkserver")


@pytest.mark.distributed
def test_sharded_models_load_compute_clip_and_gather_as_one_process_does():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = []
    for rank in range(4):
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "4", "RANK": str(rank)}
        ranks.append(CONTEXT.Process(target=runpy.run_path, args=(str(WORKER), {"ENV": env})))
        ranks[-1].start()
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0] * 4
