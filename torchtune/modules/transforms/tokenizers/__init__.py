"""Tokenizers: text and conversations to token ids, and back."""

from torchtune.modules.transforms.tokenizers._builder import parse_hf_tokenizer_json
from torchtune.modules.transforms.tokenizers._gpt2 import GPT2BaseTokenizer
from torchtune.modules.transforms.tokenizers._hf_tokenizer import HuggingFaceBaseTokenizer, HuggingFaceModelTokenizer
from torchtune.modules.transforms.tokenizers._sentencepiece import SentencePieceBaseTokenizer
from torchtune.modules.transforms.tokenizers._tiktoken import TikTokenBaseTokenizer
from torchtune.modules.transforms.tokenizers._utils import (
    BaseTokenizer,
    ModelTokenizer,
    tokenize_messages_no_special_tokens,
)

__all__ = [
    "BaseTokenizer",
    "GPT2BaseTokenizer",
    "HuggingFaceBaseTokenizer",
    "HuggingFaceModelTokenizer",
    "ModelTokenizer",
    "SentencePieceBaseTokenizer",
    "TikTokenBaseTokenizer",
    "parse_hf_tokenizer_json",
    "tokenize_messages_no_special_tokens",
]
