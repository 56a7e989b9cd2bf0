"""Numbers that several pages give are those of their source."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from torchtune.data.formats import list_formats

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_numbers_in_the_readme_stand_on_the_page_of_benchmarks() -> None:
    table = README.partition("## Benchmarks")[2].partition("![")[0]
    measured = [
        line.split("|")[2] for line in table.splitlines() if line.startswith("| ") and "`" in line or "the same" in line
    ]
    numbers = re.findall(r"\d+(?:[.,]\d+)?", " ".join(measured))
    known = set(re.findall(r"\d+(?:[.,]\d+)?", (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")))
    assert len(numbers) > 8
    assert [number for number in numbers if number not in known] == []


@pytest.mark.parametrize("page", ["README.md", "docs/first_finetune.md", "docs/loops/finetune.md"])
def test_calls_of_the_quickstart_are_those_of_its_runs(page: str) -> None:
    runs = ROOT / "docs/pictures"
    for run in ("full", "lora"):
        rows = map(json.loads, (runs / f"quickstart_{run}.jsonl").read_text(encoding="utf-8").splitlines())
        calls = [row["tool_eval/exact_match"] for row in rows if "tool_eval/exact_match" in row]
        assert calls[0] == 0
        assert f"{100 * calls[-1]:.1f} %" in (ROOT / page).read_text(encoding="utf-8")


def test_the_readme_counts_the_formats() -> None:
    assert f"{len(list_formats())} families and versions" in README
