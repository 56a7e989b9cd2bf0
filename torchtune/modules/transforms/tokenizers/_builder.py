"""What builders of tokenizers read: control tokens and prompt templates."""

from __future__ import annotations

import json
from typing import Any

from torchtune.utils._paths import tokenizer_file


def parse_hf_tokenizer_json(tokenizer_json_path: str) -> dict[str, int]:
    """The ids of a Hugging Face tokenizer's control tokens (``added_tokens``) by their text.

    Args:
        tokenizer_json_path: the ``tokenizer.json``.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is no tokenizer file.
    """
    with open(tokenizer_file(tokenizer_json_path), encoding="utf-8") as file:
        found = json.load(file)
    if not isinstance(found, dict) or "added_tokens" not in found:
        raise ValueError(f"{tokenizer_json_path} has no 'added_tokens'; expected a Hugging Face tokenizer.json.")
    return {token["content"]: token["id"] for token in found["added_tokens"]}


def read_special_tokens(path: str | None) -> dict[str, int] | None:
    """Control tokens from a ``tokenizer.json``, or None for the family's own."""
    return None if path is None else parse_hf_tokenizer_json(path)


def read_template(template: Any) -> Any:
    """The prompt template that a config names, or None."""
    if template is None:
        return None
    from torchtune.data._prompt_templates import _get_prompt_template

    return _get_prompt_template(template)
