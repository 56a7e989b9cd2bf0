"""What an import brings along. Each module of the package is imported in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

#: Loaded where they are used, never by an import.
# fmt: off
LATE = {
    "PIL", "datasets", "huggingface_hub", "hf_xet", "httpx", "requests", "jinja2", "jsonschema", "lm_eval", "pandas", "psutil",
    "pyarrow", "rich", "safetensors", "sentencepiece", "tiktoken", "tokenizers", "torchao", "torchdata", "torchvision", "tqdm",
    "transformers", "comet_ml", "mlflow", "tensorboard", "trackio", "wandb",
}
# fmt: on
#: Modules whose classes derive from a library's, so that they need it; nothing else imports them before it does.
NEEDS = {"torchtune.modules.transforms.tokenizers._hf_sandbox": {"jinja2"}}

#: With all that is below them: the command line, configs and text. What pads batches is the one exception.
WITHOUT_TORCH = ["_cli", "_recipe_registry", "config", "data", "recipe_interfaces", "utils"]
WITH_TORCH = {"torchtune.data._collate"}


def imported(*arguments: str) -> dict[str, dict[str, Any]]:
    """Module -> what its import brought in, printed and set."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "import_zygote.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def modules() -> dict[str, dict[str, Any]]:
    return imported("torchtune", "--preload", "torch")


@pytest.mark.slow
def test_every_module_is_imported(modules: dict[str, dict[str, Any]]) -> None:
    files = {path.relative_to(ROOT).with_suffix("") for path in (ROOT / "torchtune").rglob("*.py")}
    names = {".".join(path.parent.parts if path.name == "__init__" else path.parts) for path in files}
    assert set(modules) == {name for name in names if not name.endswith("__main__")}
    assert {name: seen["error"] for name, seen in modules.items() if seen["error"]} == {}


@pytest.mark.slow
def test_no_module_brings_in_more_than_torch(modules: dict[str, dict[str, Any]]) -> None:
    assert {name: heavy for name, seen in modules.items() if (heavy := LATE & set(seen["new"]))} == NEEDS


@pytest.mark.slow
@pytest.mark.parametrize("what", ["printed", "changed"])
def test_no_module_prints_or_sets_an_environment_variable(what: str, modules: dict[str, dict[str, Any]]) -> None:
    assert {name: seen[what] for name, seen in modules.items() if seen[what]} == {}


def test_the_command_line_configs_and_text_never_load_torch() -> None:
    seen = imported(*(f"torchtune.{name}" for name in WITHOUT_TORCH))
    assert len(seen) > 60 and {name: found["error"] for name, found in seen.items() if found["error"]} == {}
    forbidden = LATE | {"torch", "numpy"}
    assert {name for name, found in seen.items() if forbidden & set(found["new"])} == WITH_TORCH


def test_a_module_that_prints_sets_a_variable_or_loads_a_library_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "loud").mkdir()
    (tmp_path / "loud" / "__init__.py").write_text("")
    (tmp_path / "loud" / "a.py").write_text(
        "import os, sqlite3\nprint('hello')\nos.environ['LOUD'] = '1'\nimport helper\n"
    )
    (tmp_path / "loud" / "b.py").write_text("import os\nos.write(2, b'straight')\n")
    (tmp_path / "loud" / "c.py").write_text("raise RuntimeError('no')")
    (tmp_path / "helper.py").write_text("")
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "import_zygote.py"), "loud"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    seen = json.loads(result.stdout)
    assert seen["loud"] == {"new": ["loud"], "printed": "", "changed": [], "error": None}
    assert seen["loud.a"] == {"new": ["helper", "loud"], "printed": "hello\n", "changed": ["LOUD"], "error": None}
    assert seen["loud.b"]["printed"] == "straight" and seen["loud.b"]["new"] == ["loud"]
    assert "RuntimeError: no" in seen["loud.c"]["error"]


def test_the_package_imports_in_a_fifth_of_a_second() -> None:
    code = "import sys, time; start = time.process_time(); import torchtune; print(time.process_time() - start, *sys.modules)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(3)]
    assert min(float(run.split()[0]) for run in runs) < 0.2
    brought = {name.partition(".")[0] for name in runs[0].split()[1:]} - set(sys.stdlib_module_names)
    assert not brought & (LATE | {"torch", "numpy", "omegaconf"})
