from __future__ import annotations

import importlib
import pkgutil

import pytest

import torchtune

# Packages that torchtune does not require; a module that needs one of them is skipped where it is missing.
OPTIONAL = ("ray", "tensordict", "triton", "vllm")
MODULES = sorted(module.name for module in pkgutil.walk_packages(torchtune.__path__, "torchtune.", onerror=str))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_every_module_imports(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{name} needs {error.name}")
