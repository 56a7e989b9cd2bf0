"""Shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ASSETS = Path(__file__).parent / "assets"


@pytest.fixture
def assets() -> Path:
    """The committed test data."""
    return ASSETS


@pytest.fixture(scope="session")
def vocab_dir() -> Path:
    """A folder with the real vocabularies, named by TORCHTUNE_VOCAB_DIR; tests that need one are skipped without it."""
    folder = os.environ.get("TORCHTUNE_VOCAB_DIR")
    if not folder:
        pytest.skip("TORCHTUNE_VOCAB_DIR is not set")
    return Path(folder)
