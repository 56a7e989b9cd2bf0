"""Reading of Hugging Face's ``tokenizer.json``."""

from __future__ import annotations

import json

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
