"""Builds the tokenizer of Qwen 2.5 from what a config holds."""

from __future__ import annotations

from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.qwen2_5._tokenizer import Qwen2_5Tokenizer

qwen2_5_tokenizer = tokenizer_builder(
    Qwen2_5Tokenizer,
    "qwen2_5_tokenizer",
    "Qwen 2.5",
    {"path": "vocab.json", "merges_file": "merges.txt"},
    module=__name__,
)
