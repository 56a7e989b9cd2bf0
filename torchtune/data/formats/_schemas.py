"""What is wrong with a function schema. Asked once a format could not write it, so that good ones cost nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

#: Keywords that hold schemas: alone, in a list, or by name.
_ONE, _LIST, _NAMED = ("items", "additionalProperties"), ("anyOf", "oneOf", "allOf"), ("properties", "$defs")


def schema_problem(tools: Sequence[Any]) -> str | None:
    """The first thing in these tools that is no function schema: where, what was found, what was expected; None if none."""
    for number, tool in enumerate(tools):
        for place, found, expected in _problems(tool.get("function")):
            return f"tool {number}, {place}: expected {expected}, found {str(found)[:60]!r}"
    return None


def _problems(function: Any) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(function, dict):
        yield "function", function, "an object"
        return
    if not isinstance(function.get("name"), str) or not function["name"]:
        yield "name", function.get("name"), "text"
    if not isinstance(function.get("description") or "", str):
        yield "description", function["description"], "text"
    for key in ("parameters", "return"):
        if function.get(key) is not None:
            yield from _schema_problems(function[key], key)


def _schema_problems(schema: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    if isinstance(schema, bool) and place.endswith("additionalProperties"):
        return
    if not isinstance(schema, dict):
        yield place, schema, "a schema, which is an object"
        return
    kind = schema.get("type")
    kinds_of = kind if isinstance(kind, list) else [kind or ""]
    if not all(isinstance(one, str) for one in kinds_of):
        yield f"{place}.type", kind, "the name of a type, or a list of them"
    for key in ("enum", "required"):
        if schema.get(key) is not None and not isinstance(schema[key], list):
            yield f"{place}.{key}", schema[key], "a list"
    for key in _ONE:
        if schema.get(key) is not None:
            yield from _schema_problems(schema[key], f"{place}.{key}")
    for keys, kinds, words in ((_LIST, list, "a list of schemas"), (_NAMED, dict, "schemas by name")):
        for key in keys:
            inner = schema.get(key)
            if inner is None:
                continue
            if not isinstance(inner, kinds):
                yield f"{place}.{key}", inner, words
                continue
            items = inner.items() if isinstance(inner, dict) else enumerate(inner)
            for name, one in items:
                yield from _schema_problems(one, f"{place}.{key}.{name}")
