"""A tokenizer's file that isn't there is named, with what is there and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchtune.config import instantiate

CASES: dict[str, dict[str, Any]] = {
    "qwen2_5.qwen2_5_tokenizer": {"path": "tokenizer.file", "merges_file": "merges.txt"},
    "llama3.llama3_tokenizer": {"path": "tokenizer.file"},
    "llama2.llama2_tokenizer": {"path": "tokenizer.file"},
    "mistral.mistral_tokenizer": {"path": "tokenizer.file"},
    "gemma.gemma_tokenizer": {"path": "tokenizer.file"},
    "phi3.phi3_mini_tokenizer": {"path": "tokenizer.file"},
    "phi4.phi4_tokenizer": {"vocab_path": "tokenizer.file", "merges_path": "merges.txt"},
    "clip.clip_tokenizer": {"path": "tokenizer.file"},
    "t5.t5_tokenizer": {"path": "tokenizer.file"},
}


@pytest.mark.parametrize("component", CASES)
def test_a_missing_tokenizer_file_is_named(component: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    paths = {key: str(tmp_path / name) for key, name in CASES[component].items()}
    with pytest.raises(
        FileNotFoundError, match=r"No tokenizer file .*tokenizer\.file: .* holds config\.json\. Set the"
    ):
        instantiate({"_component_": f"torchtune.models.{component}", **paths})


@pytest.mark.parametrize("component", ["llama2.llama2_tokenizer", "mistral.mistral_tokenizer", "gemma.gemma_tokenizer"])
def test_another_file_is_told_to_be_no_sentencepiece_model(component: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(OSError, match=r"tokenizer\.model is no SentencePiece model"):
        instantiate({"_component_": f"torchtune.models.{component}", "path": str(tmp_path / "tokenizer.model")})
