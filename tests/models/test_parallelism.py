"""Tensor-parallel plans."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchtune.models.llama3 import base_llama_tp_plan, llama3
from torchtune.models.llama3_2 import llama3_2

WORKER = Path(__file__).parent / "workers" / "tensor_parallel.py"


@pytest.mark.distributed
@pytest.mark.parametrize("mode", ["training", "inference", "llama4"])
def test_two_processes_give_the_logits_and_gradients_of_one(mode: str) -> None:
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(WORKER), mode],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_the_plan_leaves_out_a_tied_output() -> None:
    with torch.device("meta"):
        tied, untied = llama3_2(64, 2, 4, 2, 32, 16), llama3(64, 2, 4, 2, 32, 16)
    assert "output" not in base_llama_tp_plan(tied) and "output" in base_llama_tp_plan(untied)


def test_float8_is_for_training_only() -> None:
    with pytest.raises(ValueError, match="inference=False"):
        base_llama_tp_plan(llama3(64, 1, 2, 1, 8, 8), inference=True, enable_fp8_training=True)
