"""The pictures on the docs pages are what their scripts draw."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["masked", "curves", "packing", "data_path"])
def test_committed_pictures_are_what_their_script_draws_today(name: str) -> None:
    spec = importlib.util.spec_from_file_location(f"picture_{name}", DOCS / "pictures" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for file, text in script.pictures().items():
        assert (DOCS / "_static" / file).read_text(encoding="utf-8") == text, f"run docs/pictures/{name}.py: {file}"


def test_every_picture_has_a_script_and_stands_on_a_page_with_words_for_those_who_cannot_see_it() -> None:
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    scripts = "\n".join(script.read_text(encoding="utf-8") for script in (DOCS / "pictures").glob("*.py"))
    for picture in (DOCS / "_static").glob("*.svg"):
        if picture.stem == "favicon":
            continue
        assert picture.name in scripts or picture.stem.partition("_")[2] in scripts, f"no script draws {picture.name}"
        shown = re.search(rf"!\[[^\]]{{20,}}\]\([^)]*{picture.name}\)", text) or re.search(
            rf"{{image}} \S*{picture.name}\n:alt: \S.{{20,}}", text
        )
        assert shown, f"{picture.name} stands on no page, or without a description"
