"""The former home of the tokenizers; they are in :mod:`torchtune.modules.transforms.tokenizers` now."""

from __future__ import annotations

import warnings
from typing import Any

_NAMES = (
    "BaseTokenizer",
    "GPT2BaseTokenizer",
    "HuggingFaceBaseTokenizer",
    "HuggingFaceModelTokenizer",
    "ModelTokenizer",
    "SentencePieceBaseTokenizer",
    "TikTokenBaseTokenizer",
    "parse_hf_tokenizer_json",
    "tokenize_messages_no_special_tokens",
)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"torchtune.modules.tokenizers.{name} is deprecated; import it from torchtune.modules.transforms.tokenizers.",
        DeprecationWarning,
        stacklevel=2,
    )
    from torchtune.modules.transforms import tokenizers

    return getattr(tokenizers, name)


def __dir__() -> list[str]:
    return sorted(_NAMES)
