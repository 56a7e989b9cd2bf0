"""A copy of a Hugging Face tokenizer for which no text is a control token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def plain_tokenizer(source: str, controls: Mapping[str, int], goes_on: bool) -> Tokenizer:
    """Makes the copy; where it ``goes_on``, text that does not stand at the start gets no space put before it.

    The control tokens are given names that no text holds, in the list of added tokens and in the vocabulary, so that all
    ids stay as they are.
    """
    from tokenizers import Tokenizer

    parts = json.loads(source)
    names = {text: f"\ufdd0{number}\ufdd1" for text, number in controls.items()}
    for token in parts["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = parts["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(text, text): number for text, number in vocab.items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in vocab]
    if model.get("merges"):
        model["merges"] = [pair for pair in model["merges"] if _merged(pair) not in names]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    parts["post_processor"] = None
    parts["truncation"] = parts["padding"] = None
    if goes_on:
        _prepend_never(parts)
    return Tokenizer.from_str(json.dumps(parts))


def _merged(pair: str | list[str]) -> str:
    return pair.replace(" ", "") if isinstance(pair, str) else "".join(pair)


def _prepend_never(part: Any) -> None:
    """Turns ``prepend_scheme: first`` off."""
    if isinstance(part, dict):
        if part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
        for name, inner in part.items():
            if name not in ("model", "added_tokens"):
                _prepend_never(inner)
    elif isinstance(part, list):
        for inner in part:
            _prepend_never(inner)
