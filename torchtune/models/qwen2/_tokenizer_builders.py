"""Builds the tokenizer of Qwen 2 from what a config holds."""

from __future__ import annotations

from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.qwen2._tokenizer import Qwen2Tokenizer

qwen2_tokenizer = tokenizer_builder(
    Qwen2Tokenizer,
    "qwen2_tokenizer",
    "Qwen 2",
    {"path": "vocab.json", "merges_file": "merges.txt"},
    module=__name__,
    optional=("merges_file",),
)
