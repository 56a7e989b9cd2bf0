"""Llama 4."""

from torchtune.models.llama4._tokenizer import Llama4Tokenizer

__all__ = ["Llama4Tokenizer"]
