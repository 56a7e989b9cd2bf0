"""Calls whose arguments stand in tags as raw text, and the types that come back from them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

from torchtune.data._message import ToolCall
from torchtune.data._tools import tool_name, tool_parameters

from ._read import BadCall, Source
from ._write import Writer, dumps

_FUNCTION = re.compile(r"\s*<function=([^>\n]*)>\n?")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]*)>\n?")
_FUNCTION_END = re.compile(r"\s*</function>")
_VALUE_END = re.compile(r"\n?</parameter>(?=\s*(?:<parameter=|</function>))")
_MISSING: Any = object()


def python_scalars(value: Any) -> str:
    """Text as it is, objects and lists as JSON, the rest as Python prints it (``True``, ``None``)."""
    return dumps(value) if isinstance(value, (dict, list)) else str(value)


def json_scalars(value: Any) -> str:
    """Text as it is, all else as JSON."""
    return value if isinstance(value, str) else dumps(value)


def python_lists(value: Any) -> str:
    """Text as it is, objects as JSON, the rest as Python prints it, lists included."""
    return dumps(value) if isinstance(value, dict) else str(value)


def write_function(w: Writer, call: ToolCall, show: Callable[[Any], str]) -> None:
    """``<function=f>`` with each argument on lines of its own."""
    parts = [f"<parameter={key}>\n{show(value)}\n</parameter>\n" for key, value in call.arguments.items()]
    w.text(f"<function={call.name}>\n{''.join(parts)}</function>", "call")


def read_function(source: Source, start: int, schemas: dict[str, dict[str, Any]]) -> tuple[ToolCall, int]:
    """The call at ``start`` and where it ends; ``schemas`` gives the arguments' types by function."""
    text = source.text
    opened = _FUNCTION.match(text, start)
    if not opened or not opened[1].strip():
        raise BadCall(f"expected <function=name>, found {text[start : start + 30]!r}")
    name, at = opened[1].strip(), opened.end()
    schema = schemas.get(name, {})
    arguments: dict[str, Any] = {}
    while parameter := _PARAMETER.match(text, at):
        ended = _VALUE_END.search(text, parameter.end())
        if not ended:
            raise BadCall(f"the argument {parameter[1]!r} of {name!r} is not closed by </parameter>")
        arguments[parameter[1]] = typed(text[parameter.end() : ended.start()], schema.get(parameter[1]))
        at = ended.end()
    closed = _FUNCTION_END.match(text, at)
    if not closed:
        raise BadCall(f"expected </function> after the arguments of {name!r}, found {text[at : at + 30]!r}")
    return ToolCall(name, arguments), closed.end()


def argument_schemas(tools: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Function name -> argument name -> schema."""
    schemas: dict[str, dict[str, Any]] = {}
    for tool in tools:
        properties = (tool_parameters(tool) or {}).get("properties")
        schemas[tool_name(tool) or ""] = properties if isinstance(properties, dict) else {}
    return schemas


def typed(text: str, schema: Any = None) -> Any:
    """The value that raw text stands for.

    A schema decides: text for a string stays text, as far as the schema does not allow null too. Without one, text that is
    JSON or a Python literal other than a string is read as such, and all else is text.
    """
    kinds = _kinds(schema)
    value = text if kinds == {"string"} else _literal(text)
    if value is _MISSING or isinstance(value, str):
        return text
    if "string" in kinds and not any(_fits(value, kind) for kind in kinds):
        return text
    return value


def _kinds(schema: Any) -> set[str]:
    """The JSON types that a schema names; empty where it names none."""
    if not isinstance(schema, dict):
        return set()
    kind = schema.get("type")
    kinds = {one for one in (kind if isinstance(kind, list) else [kind]) if isinstance(one, str)}
    choices = schema.get("anyOf") or schema.get("oneOf")
    for choice in choices if isinstance(choices, list) else ():
        kinds |= _kinds(choice)
    if schema.get("nullable") is True:
        kinds.add("null")
    enum = schema.get("enum")
    if not kinds and isinstance(enum, list) and all(isinstance(one, str) for one in enum):
        return {"string"}
    return kinds


def _fits(value: Any, kind: str) -> bool:
    """True if a value is of this JSON type and not text."""
    if isinstance(value, bool):
        return kind == "boolean"
    types: dict[str, Any] = {"integer": int, "number": (int, float), "array": list, "object": dict, "null": type(None)}
    return kind in types and isinstance(value, types[kind])


def _literal(text: str) -> Any:
    """The value of JSON or a Python literal; ``_MISSING`` for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return _MISSING
    return value if _is_json(value) else _MISSING


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (str, bool, int, float))
