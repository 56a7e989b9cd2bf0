from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import torchtune

LOSSES = Path(torchtune.__file__).parent / "rlhf" / "loss"


class TestLossNames:
    @pytest.mark.parametrize("name", sorted(path.stem for path in LOSSES.glob("*.py")))
    def test_each_module_of_losses_imports(self, name):
        importlib.import_module("torchtune.rlhf.loss" if name == "__init__" else f"torchtune.rlhf.loss.{name}")
