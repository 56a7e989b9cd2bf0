"""Function schemas from signatures and docstrings. The standard library only."""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$")
_ARGUMENT = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")


def function_schema(function: Callable[..., Any], name: str | None = None, *, method: bool = False) -> dict[str, Any]:
    """The OpenAI schema of a function: types from its annotations, descriptions from its docstring.

    Args:
        function: the function; its docstring begins with what it does and may have a section ``Args:``, one argument a
            line, ``name: description``.
        name: name of the tool. Default: the function's.
        method: leave out the first argument, ``self``.

    Raises:
        ValueError: if an argument has no annotation or one that JSON cannot express, has no name (``*args``), or the
            function has no docstring.
    """
    tool = name or function.__name__
    summary, described = read_docstring(inspect.getdoc(function) or "")
    if not summary:
        raise ValueError(f"{tool} has no docstring; its first lines tell the model what the tool does")
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise ValueError(f"{tool}: an annotation cannot be resolved: {error}") from error
    properties: dict[str, Any] = {}
    required = []
    for parameter in list(inspect.signature(function).parameters.values())[method:]:
        where = f"{tool}: argument {parameter.name!r}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ValueError(f"{where} cannot be passed by name; tools are called with named arguments")
        if parameter.name not in hints:
            raise ValueError(f"{where} has no annotation; the model needs its type")
        schema = type_schema(hints[parameter.name], where)
        if parameter.name in described:
            schema["description"] = described[parameter.name]
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        properties[parameter.name] = schema
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": tool, "description": summary, "parameters": parameters}}


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The summary of a docstring, up to its first section, and the arguments' descriptions by name."""
    summary: list[str] = []
    described: dict[str, str] = {}
    section, indent, last = "", 0, ""
    for line in inspect.cleandoc(text).splitlines():
        if heading := _SECTION.match(line):
            section, last = heading[1], ""
            continue
        if not section:
            summary.append(line)
        elif section in ("Args", "Arguments", "Parameters") and line.strip():
            depth = len(line) - len(line.lstrip())
            found = _ARGUMENT.match(line.strip())
            if found and (not last or depth <= indent):
                last, indent = found[1], depth
                described[last] = found[2].strip()
            elif last:
                described[last] = f"{described[last]} {line.strip()}".strip()
    return " ".join("\n".join(summary).split()), described


def type_schema(hint: Any, where: str) -> dict[str, Any]:
    """The JSON Schema of an annotation."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if origin is typing.Annotated:
        notes = [note for note in inner[1:] if isinstance(note, str)]
        return {**type_schema(inner[0], where), **({"description": notes[0]} if notes else {})}
    if origin is Literal:
        return _choices(inner, where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choices([member.value for member in hint], where)
    if origin in (typing.Union, types.UnionType):
        return _union([type_schema(part, where) for part in inner])
    if (origin or hint) in (list, tuple, set, Sequence):
        item = inner[0] if inner else Any
        return {"type": "array", "items": type_schema(item, where)}
    if (origin or hint) in (dict, Mapping):
        value = type_schema(inner[1], where) if len(inner) == 2 else {}
        return {"type": "object", **({"additionalProperties": value} if value else {})}
    raise ValueError(f"{where} has the type {hint!r}, which JSON cannot express; use str, int, float, bool, list, dict")


def _choices(values: Sequence[Any], where: str) -> dict[str, Any]:
    kinds = sorted({_SIMPLE.get(type(value), "") for value in values})
    if "" in kinds:
        raise ValueError(f"{where} has choices that JSON cannot express: {values!r}")
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(values)}


def _union(options: list[dict[str, Any]]) -> dict[str, Any]:
    """One schema of several; simple types are listed in one."""
    if all(set(option) == {"type"} and isinstance(option["type"], str) for option in options):
        return {"type": [option["type"] for option in options]}
    return {"anyOf": options}
