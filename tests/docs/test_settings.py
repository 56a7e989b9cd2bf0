"""The page of settings says what each key of each recipe does."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_every_key_that_a_recipe_reads_is_explained_once() -> None:
    spec = importlib.util.spec_from_file_location("setting_pages", Path(__file__).parents[2] / "docs/setting_pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    explained = [key for keys in pages.SETTINGS.values() for key in keys]
    missing = set(pages.declared()) - set(explained)
    assert not missing, f"add a line to SETTINGS in docs/setting_pages.py for {sorted(missing)}"
    assert len(explained) == len(set(explained))
