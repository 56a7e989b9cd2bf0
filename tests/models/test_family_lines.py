"""The table of lines on the page of models says what the families take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipes.catalog.checkpoints import CHECKPOINTS
from torchtune.models._families import MODULES

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|", re.M)
FOUND = {name: tuple(map(int, numbers)) for name, *numbers in ROW.findall((ROOT / "docs" / "models.md").read_text())}
LIMIT = 140


def test_the_table_has_every_family_that_was_added() -> None:
    assert set(FOUND) == {"gemma3", "qwen3_moe", "gpt_oss", "smollm3", "phi4_mini", "granite4"}


@pytest.mark.parametrize("family", list(FOUND))
def test_a_family_takes_the_lines_that_the_table_says(family: str) -> None:
    files = (ROOT / "torchtune" / "models" / family).glob("*.py")
    folder = sum(bool(line.strip()) for path in files for line in path.read_text().splitlines())
    types = sum(module.split(".")[0] == family for module in MODULES.values())
    configs = 1 + sum(checkpoint.family.tokenizer.split(".")[0] == family for checkpoint in CHECKPOINTS)
    assert FOUND[family] == (folder, types, configs)
    assert folder <= LIMIT
