"""The script for Slurm, with stand-ins for Slurm's own commands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _runs import RECIPES

pytestmark = pytest.mark.recipes
SCRIPT = RECIPES / "slurm" / "multinode.sh"
COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then echo localhost; echo other; else echo "$@" > "$RECORDS/requeued"; fi',
    "scancel": 'echo "$@" > "$RECORDS/cancelled"; exit 1',  # then the script ends the step itself
    "srun": 'shift; exec "$@"',
}


def environment(folder: Path, tune: str) -> dict[str, str]:
    """Slurm's variables, and a PATH on which its commands and ``tune`` are scripts of ours."""
    for name, body in {**COMMANDS, "tune": tune}.items():
        command = folder / name
        command.write_text(f"#!/bin/bash\n{body}\n")
        command.chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    given = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "7"}
    path = f"{folder}:{os.environ['PATH']}"
    return {**os.environ, **given, "PATH": path, "PORT": str(port), "RECORDS": str(folder), "OMP_NUM_THREADS": "1"}


def test_torchrun_gets_the_machines_and_the_recipe_its_overrides(tmp_path: Path) -> None:
    env = environment(tmp_path, 'printf "%s\\n" "$@" > "$RECORDS/arguments"; exit 3')
    command = ["bash", str(SCRIPT), "full_finetune_distributed", "llama3_3/70B_full_multinode", "name=a b"]
    assert subprocess.run(command, env=env).returncode == 3
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "run", "--nnodes=1", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-id=7",
        f"--rdzv-endpoint=localhost:{env['PORT']}", "--shutdown-timeout=110",
        "full_finetune_distributed", "--config", "llama3_3/70B_full_multinode", "name=a b", "resume_from_checkpoint=auto",
    ]  # fmt: skip
    assert not (tmp_path / "requeued").exists()


def test_a_missing_config_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), "full_finetune_distributed"],
        env=environment(tmp_path, ""),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "usage: sbatch multinode.sh RECIPE CONFIG" in done.stderr


def test_before_its_time_is_over_the_run_ends_and_the_job_is_queued_again(tmp_path: Path) -> None:
    ending = 'trap \'echo ended > "$RECORDS/ended"; exit 0\' TERM; touch "$RECORDS/up"; while :; do sleep 0.05; done'
    env = environment(tmp_path, ending)
    job = subprocess.Popen(["bash", str(SCRIPT), "full_finetune_distributed", "llama3_2/1B_full"], env=env)
    until = time.monotonic() + 60
    while not (tmp_path / "up").exists():
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 0
    assert (tmp_path / "cancelled").read_text() == "--signal=TERM 7.0\n"
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train(tmp_path: Path) -> None:
    env = environment(tmp_path, f'exec "{sys.executable}" -m torchtune "$@"')
    output = tmp_path / "run"
    overrides = [
        f"output_dir={output}", "batch_size=2", "epochs=1", "max_steps_per_epoch=2", "check_data=false",
        "dataset_val=null", "run_val_every_n_steps=null", "eval_tool_calls=null", "log_every_n_steps=1",
    ]  # fmt: skip
    command = ["bash", str(SCRIPT), "full_finetune_distributed", "quickstart/tool_calling", *overrides]
    subprocess.run(command, env=env, check=True, timeout=300)
    assert list((output / "epoch_0").glob("*.safetensors"))
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 2
