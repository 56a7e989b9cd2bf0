"""Running recipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for _runs, which tests import

from _runs import ENV, Run, command


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a recipe to its end; a failure shows its output."""

    def run(
        recipe: str, config: str, *overrides: str, processes: int = 1, ok: bool = True
    ) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command(recipe, config, *overrides, processes=processes),
            capture_output=True, text=True, timeout=300, env=ENV, cwd=tmp_path,
        )  # fmt: skip
        assert (result.returncode == 0) == ok, (
            f"exit {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
        )
        return result

    return run
