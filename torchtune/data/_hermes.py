"""Reading tool calls and results that are Hermes-style text. Pure: the standard library only."""

from __future__ import annotations

import re
from typing import Any

from torchtune.data._json_values import read_literal
from torchtune.data._tool_calls import read_call, read_json

_HERMES_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_HERMES_RESULT = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)


def split_hermes_calls(text: str, where: str) -> tuple[str, list[dict[str, Any]]]:
    """The text before Hermes-style calls, and the calls: ``text\\n<tool_call>\\n{...}\\n</tool_call>``."""
    first = text.find("<tool_call>")
    if first < 0:
        return text, []
    rest = _HERMES_CALL.sub("", text[first:])
    if rest.strip():
        kind = "a <tool_call> that is not closed" if "<tool_call>" in rest else "text after a call"
        raise ValueError(f"{where}: found {kind}: {rest.strip()[:80]!r}; expected only calls after the first one")
    bodies = _HERMES_CALL.findall(text)
    calls = [read_call(_literal(body.strip(), where), f"{where}, call {i}") for i, body in enumerate(bodies)]
    return text[:first].removesuffix("\n"), calls


def split_hermes_results(text: str) -> list[str]:
    """The results in a Hermes-style ``<tool_response>`` text, verbatim; the text itself where it holds anything else."""
    bodies = _HERMES_RESULT.findall(text)
    return bodies if bodies and not _HERMES_RESULT.sub("", text).strip() else [text]


def _literal(text: str, where: str) -> Any:
    """A Hermes call's body: JSON, else a Python literal, else the JSON error."""
    try:
        return read_json(text, where)
    except ValueError:
        try:
            value = read_literal(text, where)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        raise
