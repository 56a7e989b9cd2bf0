"""Builds the tokenizer of Gemma from what a config holds."""

from __future__ import annotations

from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.gemma._tokenizer import GemmaTokenizer

gemma_tokenizer = tokenizer_builder(
    GemmaTokenizer,
    "gemma_tokenizer",
    "Gemma",
    {"path": "SentencePiece model"},
    module=__name__,
    special_tokens=False,
)
