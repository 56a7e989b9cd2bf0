"""What the tokenizer builders of all families share."""

from __future__ import annotations

from typing import Any

from torchtune.modules.transforms.tokenizers._hf_json import parse_hf_tokenizer_json


def read_special_tokens(path: str | None) -> dict[str, int] | None:
    """Control tokens from a ``tokenizer.json``, or None for the family's own."""
    return None if path is None else parse_hf_tokenizer_json(path)


def read_template(template: Any) -> Any:
    """The prompt template that a config names, or None."""
    if template is None:
        return None
    from torchtune.data._prompt_templates import _get_prompt_template

    return _get_prompt_template(template)
