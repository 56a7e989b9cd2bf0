"""What an import brings along. Each check runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LOADED = "import sys, json; import {module}; print(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"


def loaded_by(module: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", LOADED.format(module=module)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.strip().splitlines()
    assert len(lines) == 1, f"something was printed on import of {module}: {lines[:-1]}"
    return set(json.loads(lines[0]))


HEAVY = {"torchao", "torchvision", "datasets", "pandas", "pyarrow", "transformers", "huggingface_hub", "PIL"}


@pytest.mark.parametrize(
    "module",
    [
        "torchtune",
        "torchtune.data",
        "torchtune.data.formats",
        "torchtune._cli.tune",
        "torchtune._recipe_registry",
        "torchtune.config",
    ],
)
def test_module_imports_without_torch(module: str) -> None:
    assert not loaded_by(module) & (HEAVY | {"torch", "numpy"})


@pytest.mark.parametrize(
    "module",
    [
        "torchtune.modules",
        "torchtune.modules.peft",
        "torchtune.modules.loss",
        "torchtune.modules.transforms.tokenizers",
        "torchtune.models.llama3_2",
        "torchtune.models.qwen3",
        "torchtune.generation",
        "torchtune.datasets",
        "torchtune.training",
        "torchtune.utils",
    ],
)
def test_module_imports_nothing_heavy_but_torch(module: str) -> None:
    assert not loaded_by(module) & HEAVY


EVERY_MODULE = """
import contextlib, importlib, io, json, os, pkgutil, sys
import torch
environment, loaded = dict(os.environ), set(sys.modules)
import torchtune
names = [m.name for m in pkgutil.walk_packages(torchtune.__path__, "torchtune.") if not m.name.endswith("__main__")]
printed = io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    for name in names:
        importlib.import_module(name)
new = sorted({m.partition(".")[0] for m in set(sys.modules) - loaded})
print(json.dumps({"names": len(names), "new": new, "printed": printed.getvalue(), "same": dict(os.environ) == environment}))
"""


def test_all_modules_together_bring_in_nothing_heavy_print_nothing_and_set_no_variable() -> None:
    result = subprocess.run([sys.executable, "-c", EVERY_MODULE], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["names"] > 300 and found["same"] and found["printed"] == ""
    assert not set(found["new"]) & (
        HEAVY | {"tokenizers", "sentencepiece", "tiktoken", "jinja2", "wandb", "tensorboard"}
    )


def test_the_package_imports_in_a_fifth_of_a_second() -> None:
    code = "import sys, time; start = time.process_time(); import torchtune; print(time.process_time() - start)"
    taken = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) for _ in range(3)
    ]
    assert min(taken) < 0.2


def test_import_sets_no_environment_variable() -> None:
    code = "import os; before = dict(os.environ); import torchtune, torchtune.training, torchtune.datasets; assert dict(os.environ) == before"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
