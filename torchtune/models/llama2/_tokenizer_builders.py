"""Builds the tokenizer of Llama 2 from what a config holds."""

from __future__ import annotations

from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.llama2._tokenizer import Llama2Tokenizer

llama2_tokenizer = tokenizer_builder(
    Llama2Tokenizer,
    "llama2_tokenizer",
    "Llama 2",
    {"path": "SentencePiece model"},
    module=__name__,
    special_tokens=False,
    template="torchtune.models.llama2.Llama2ChatTemplate",
)
