"""Builds the tokenizer of Llama 3, 3.1, 3.2 or 3.3 from what a config holds."""

from __future__ import annotations

from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.llama3._tokenizer import Llama3Tokenizer

llama3_tokenizer = tokenizer_builder(
    Llama3Tokenizer,
    "llama3_tokenizer",
    "Llama 3, 3.1, 3.2 or 3.3",
    {"path": "``tokenizer.model`` in tiktoken's form"},
    module=__name__,
)
