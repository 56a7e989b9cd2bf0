"""Reading the tools of a row. Pure: the standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def tool_name(tool: Mapping[str, Any]) -> str | None:
    """The name of a tool, wrapped as ``{"type": "function", "function": {...}}`` or bare; None if it has none."""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, (dict, Mapping)) else tool.get("name")
    return name if isinstance(name, str) and name else None


def tool_parameters(tool: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON Schema of a tool's arguments, or None where the tool has none."""
    function = tool.get("function")
    body = function if isinstance(function, Mapping) else tool
    parameters = body.get("parameters", body.get("input_schema"))
    return parameters if isinstance(parameters, dict) else None


def read_tools(value: Any, where: str = "tools") -> list[dict[str, Any]]:
    """The tools of a row as a list of dicts, in the row's order and with its keys, wrapped or bare as they stand.

    Args:
        value: a list of tools, one tool, or either as a JSON string; a list may hold JSON strings. None and "" mean
            no tools.
        where: what errors call the value, usually the column.

    Returns:
        The tools; empty where the row has none.

    Raises:
        ValueError: if the value is not JSON, not a list of objects, or a tool has no name.
    """
    value = _parsed(value, where)
    if value is None or value == "":
        return []
    if isinstance(value, (dict, Mapping)):
        value = [value]
    if not isinstance(value, (list, Sequence)) or isinstance(value, str):
        raise ValueError(f"{where} must be a list of tools or a JSON string of one, but found {_kind(value)}")
    tools = []
    for i, item in enumerate(value):
        tool = _parsed(item, f"{where}[{i}]") if isinstance(item, str) else item
        if not isinstance(tool, (dict, Mapping)):
            raise ValueError(f"{where}[{i}] must be an object with a 'name', but found {_kind(tool)}")
        if tool_name(tool) is None:
            raise ValueError(
                f"{where}[{i}] has no name. Expected {{'type': 'function', 'function': {{'name': ...}}}} or "
                f"{{'name': ...}}, but found keys {sorted(map(str, tool))}"
            )
        tools.append(dict(tool))
    return tools


def _parsed(value: Any, where: str) -> Any:
    if not isinstance(value, str) or not value.strip():
        return None if isinstance(value, str) else value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON: {error.msg} at character {error.pos}: {value[:80]!r}") from error
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deep: {value[:80]!r}") from error


def _kind(value: Any) -> str:
    return f"{type(value).__name__}: {str(value)[:80]!r}"
