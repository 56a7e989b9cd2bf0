"""Modules and losses under FSDP2 and tensor parallelism, on two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "workers" / "sharded.py"


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["full", "tied", "lora", "dora", "tensor_parallel"])
def test_two_processes_give_the_gradients_of_one(kind: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(WORKER), kind],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
