"""The package says that it has types, so a user's type checker has to find each public name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = sorted(
    path.parent.name
    for path in (Path(__file__).parents[2] / "torchtune" / "models").glob("*/__init__.py")
    if "__all__" in path.read_text()
)


@pytest.mark.slow
def test_mypy_finds_the_public_names_of_every_family(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    import torchtune.models as models

    lines = []
    for package in PACKAGES:
        module = __import__(f"{models.__name__}.{package}", fromlist=["__all__"])
        lines += [f"from {module.__name__} import {name}" for name in module.__all__]
    assert len(PACKAGES) > 20 and len(lines) > 200
    file = tmp_path / "user.py"
    file.write_text("\n".join(lines))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file=",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path),
        str(file),
    ]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert found.returncode == 0, found.stdout[-2000:]
