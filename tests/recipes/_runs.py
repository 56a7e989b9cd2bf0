"""Tiny runs of the real recipes, started as people start them: ``python -m torchtune run``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command(recipe: str, config: str, *overrides: str, processes: int = 1) -> list[str]:
    torchrun = ["--nproc-per-node", str(processes)] if processes > 1 else []
    return [sys.executable, "-m", "torchtune", "run", *torchrun, recipe, "--config", config, *overrides]


def run_until(file: Path, arguments: list[str], cwd: Path) -> None:
    """Starts a run, and kills it with SIGKILL as soon as ``file`` is there."""
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV, cwd=cwd) as process:
        for _ in range(2400):
            if file.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)


def logged(output_dir: Path, name: str = "loss") -> dict[int, str]:
    """A metric by step, as written in the logs of all runs in a folder; digits are kept, so equal means bit for bit."""
    values: dict[int, str] = {}
    for path in sorted((output_dir / "logs").iterdir(), key=lambda p: p.stat().st_mtime):
        for step, value in re.findall(rf"^Step (\d+) \|.*?\b{name}:(\S+)", path.read_text(), re.MULTILINE):
            values[int(step)] = value
    return values
