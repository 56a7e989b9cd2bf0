"""Reading the tools of a row. Pure: the standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchtune.data._json_values import check_writable, may_be_unwritable
from torchtune.data._tool_calls import read_json


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
    """The tools of a row as a list of dicts, in the row's order and with its keys, wrapped or bare as they stand."""
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
    if may_be_unwritable(tools):
        check_writable(tools, where)
    return tools


def find_tools(row: Mapping[str, Any], column: str) -> tuple[str, Any]:
    """The column that a row has its tools in, and what it holds: OpenAI's older ``functions`` where there are no ``tools``."""
    older = column == "tools" and row.get(column) is None and row.get("functions") is not None
    column = "functions" if older else column
    return column, row.get(column)


def _parsed(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    return read_json(value, where) if value.strip() else None


def _kind(value: Any) -> str:
    return f"{type(value).__name__}: {str(value)[:80]!r}"
