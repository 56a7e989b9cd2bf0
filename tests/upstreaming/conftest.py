"""Shared by the tests of pull requests: trees with each set of them applied, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path[:0] = [str(Path(__file__).parent), str(TOOLS)]

from stand_in import git, make_tree  # noqa: E402

Applied = Callable[..., Path]


@pytest.fixture(scope="session")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """Gives the stand-in tree of a variant with pull requests applied in an order; it is not to be changed."""
    from upstream_pr import make

    made: dict[tuple[str, tuple[int, ...]], Path] = {}

    def get(numbers: Sequence[int] = (), variant: str = "loops") -> Path:
        key = (variant, tuple(numbers))
        if key not in made:
            root = tmp_path_factory.mktemp("tree") / "torchtune-tree"
            if numbers:
                shutil.copytree(get(numbers[:-1], variant), root)
                make(root, numbers[-1])
            else:
                make_tree(root, variant)
            made[key] = root
        return made[key]

    return get


@pytest.fixture
def fresh(applied: Applied, tmp_path: Path) -> Applied:
    """Like ``applied``, but a copy that the test may change."""

    def get(numbers: Sequence[int] = (), variant: str = "loops") -> Path:
        return Path(shutil.copytree(applied(numbers, variant), tmp_path / "tree"))

    return get


def python(tree: Path, *args: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in a tree, whose torchtune is then the one that is imported."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    env.update(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1", PYTHONSAFEPATH="1")
    return subprocess.run(
        [sys.executable, *args], cwd=tree, env=env, input=text, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a tree."""
    return python


@pytest.fixture
def run_tests() -> Callable[..., None]:
    """Runs tests of a tree, and fails as they do."""

    def run(tree: Path, *paths: str) -> None:
        done = python(tree, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:hypothesispytest", *(paths or ["tests"]))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]

    return run


@pytest.fixture
def changed() -> Callable[[Path], dict[str, str]]:
    """What a tree's branch changes against ``main``: status by path."""

    def get(tree: Path, base: str = "main") -> dict[str, str]:
        lines = git(tree, "diff", "--name-status", base, "HEAD").splitlines()
        return {path: status for status, path in (line.split("\t") for line in lines)}

    return get
