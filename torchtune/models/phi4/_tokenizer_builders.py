"""Builds the tokenizer of Phi 4 from what a config holds."""

from __future__ import annotations

from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.phi4._tokenizer import Phi4Tokenizer

phi4_tokenizer = tokenizer_builder(
    Phi4Tokenizer,
    "phi4_tokenizer",
    "Phi 4",
    {"vocab_path": "vocab.json", "merges_path": "merges.txt"},
    module=__name__,
    optional=("vocab_path", "merges_path"),
)
