"""A short soak; the long ones, and what they found, are in docs/faults.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from _runs import ENV, RECIPES

pytestmark = [pytest.mark.recipes, pytest.mark.slow]
SOAK = RECIPES.parent / "tools" / "soak.py"


@pytest.mark.parametrize(
    "options",
    [["--data", "packed"], ["--method", "lora", "--data", "stream", "--async-saves"]],
    ids=["full-packed", "lora-stream-async"],
)
def test_a_run_that_was_killed_five_times_is_the_run_that_was_not(options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(SOAK), "--kills", "5", "--steps", "24", "--work", str(tmp_path / "soak"), *options]
    result = subprocess.run(command, capture_output=True, text=True, env=ENV, cwd=tmp_path, timeout=550)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert "Kills: 5 (" in result.stdout
    assert "losses and norms differ at 0 []\nBytes of the last weights: the same" in result.stdout
