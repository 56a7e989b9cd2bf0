"""docs/parity.md against the tests that it speaks of."""

from __future__ import annotations

import re
from pathlib import Path

from tests.parity.test_dense_decoders import CONFIGS, TOLERANCE

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_holds_families_that_are_tested_and_differences_that_the_tests_allow() -> None:
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    table = page.partition("## Text models")[2].partition("## Other")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
    families = [row[0] for row in rows]
    assert set(families) <= set(CONFIGS), "run `python tools/parity_table.py`"
    assert {"llama3_1", "qwen3", "mistral", "gemma2", "phi4", "smollm2"} <= set(families)
    assert all(row[5:] == ["equal"] * 4 for row in rows)
    logits = [float(cell) for row in rows for cell in (row[1], *row[3:5]) if re.match(r"[\d.]", cell)]
    assert len(logits) == 3 * len(rows) and max(logits) < 2 * TOLERANCE["atol"]
