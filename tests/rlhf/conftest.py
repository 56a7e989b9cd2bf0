"""The quickstart's tokenizer, and the tools of tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for sample_tools, which tests import

MODEL = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "model"


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A tiny vocabulary in Qwen 2.5's format."""
    from torchtune.models.qwen2_5 import qwen2_5_tokenizer

    return qwen2_5_tokenizer(
        str(MODEL / "vocab.json"), str(MODEL / "merges.txt"), special_tokens_path=str(MODEL / "tokenizer.json")
    )
