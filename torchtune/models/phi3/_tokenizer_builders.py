"""Builds the tokenizer of Phi 3 mini from what a config holds."""

from __future__ import annotations

from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.phi3._tokenizer import Phi3MiniTokenizer

phi3_mini_tokenizer = tokenizer_builder(
    Phi3MiniTokenizer,
    "phi3_mini_tokenizer",
    "Phi 3 mini",
    {"path": "SentencePiece model"},
    module=__name__,
)
