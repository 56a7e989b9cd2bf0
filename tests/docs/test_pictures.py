"""The pictures on the docs pages are what their scripts draw."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_masked_conversations_are_what_the_formats_write_today() -> None:
    spec = importlib.util.spec_from_file_location("masked", DOCS / "pictures" / "masked.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, text in script.pictures().items():
        assert (DOCS / "_static" / name).read_text(encoding="utf-8") == text, f"run docs/pictures/masked.py: {name}"
