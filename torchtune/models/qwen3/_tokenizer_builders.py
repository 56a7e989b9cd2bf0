"""Builds the tokenizer of Qwen 3 from what a config holds."""

from __future__ import annotations

from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.qwen3._tokenizer import Qwen3Tokenizer

qwen3_tokenizer = tokenizer_builder(
    Qwen3Tokenizer,
    "qwen3_tokenizer",
    "Qwen 3",
    {"path": "vocab.json", "merges_file": "merges.txt"},
    module=__name__,
)
