"""Golden rows and small helpers for the tests of chat formats."""

from __future__ import annotations

import gzip
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

ASSETS = Path(__file__).parents[2] / "assets" / "formats"

#: Examples a property: few by default, FORMAT_EXAMPLES=500 for a long run.
PROFILE = settings(
    max_examples=int(os.environ.get("FORMAT_EXAMPLES", "12")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="FORMAT_EXAMPLES" not in os.environ,
)


@cache
def golden_rows() -> dict[str, list[dict[str, Any]]]:
    """Golden file -> its rows."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in _lines("rendered.jsonl.gz"):
        rows.setdefault(row["golden"], []).append(row)
    return rows


@cache
def conversations() -> dict[str, dict[str, Any]]:
    """Id -> conversation in OpenAI form."""
    return {row["id"]: row for row in _lines("conversations.jsonl.gz")}


def entries() -> list[dict[str, Any]]:
    """Which format and options belong to which golden file."""
    return json.loads((ASSETS / "entries.json").read_text())


def _lines(name: str) -> list[dict[str, Any]]:
    with gzip.open(ASSETS / name, "rt", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]
