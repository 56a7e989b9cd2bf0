"""Telling Arrow's padding from real nulls. Pure: the standard library only.

Arrow gives all objects of a column the same keys, so a row that came through it (``datasets``, Parquet) has nulls where
the key was simply not there: ``{"location": "Oslo"}`` beside ``{"order_id": 7}`` becomes ``{"location": "Oslo",
"order_id": null}``. The rule, under ``nulls="auto"``:

- What is a JSON string in the row was never padded: its nulls are real.
- A null argument is real where the tool's schema allows null for it (``nullable``, ``"null"`` among the types, in
  ``enum``, ``const``, ``anyOf`` or ``oneOf``), or requires the argument.
- It is padding where the tool's schema does not declare it.
- Else it is padding if the row looks like Arrow's (:func:`looks_padded`), and real if not. Where the tool has no schema,
  calls of different tools with all the same argument names are a sign of padding too.
- In a tool's schema null is a value of ``default`` and ``const`` only, and of a list. Elsewhere it is padding. Such a
  null is real where null is allowed beside it, or where the row, its tools too, does not look like Arrow's.

``nulls="keep"`` keeps every null, ``nulls="drop"`` drops every null of an object. Items of lists are always kept.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from torchtune.data._tool_calls import ARGUMENT_KEYS
from torchtune.data._tools import tool_name, tool_parameters

Nulls = Literal["auto", "keep", "drop"]


def looks_padded(messages: Sequence[Any]) -> bool:
    """Whether a row's messages may be Arrow's: all have the same keys, and so have all calls and all arguments."""
    bodies = list(_call_bodies(messages))
    arguments = [value for body in bodies for value in _argument_objects(body)]
    return _same_keys(messages) and _same_keys(bodies) and _same_keys(arguments)


def holds_null(value: Any) -> bool:
    """Whether there may be a null in a value; a look at its bytes, or its text, is faster than one at every object."""
    try:
        return b"N" in marshal.dumps(value) and "None" in repr(value)
    except ValueError:  # holds what is no plain value
        return True


def unpad_tools(tools: Any, *, padded: bool, nulls: Nulls = "auto") -> Any:
    """Tools without Arrow's padding; JSON strings, and all else that is no object, are left alone."""
    if nulls == "keep":
        return tools
    if isinstance(tools, Mapping):
        return _unpad_schema(tools, padded=padded, drop=nulls == "drop")
    if isinstance(tools, Sequence) and not isinstance(tools, str):
        padded = padded and _share_keys(tools)
        return [unpad_tools(tool, padded=padded, nulls=nulls) for tool in tools]
    return tools


def _share_keys(tools: Sequence[Any]) -> bool:
    """Whether all tools have the same keys, and arguments of the same names, as padding makes them."""
    levels: list[Any] = [tool.get("function", tool) for tool in tools if isinstance(tool, Mapping)]
    for key in ("parameters", "properties"):
        if not _same_keys(levels):
            return False
        levels = [level[key] for level in levels if isinstance(level.get(key), Mapping)]
    return _same_keys(levels)


def unpad_calls(
    messages: Sequence[Any], tools: Sequence[Mapping[str, Any]], *, padded: bool, nulls: Nulls = "auto"
) -> Sequence[Any]:
    """Messages whose calls' argument objects have no padding; argument strings are left alone."""
    bodies = list(_call_bodies(messages))
    arguments = [value for body in bodies for value in _argument_objects(body)]
    if nulls == "keep" or not any(map(_has_null, arguments)):
        return messages
    # Padding gives calls of different tools the same argument names.
    alike = len({str(body.get("name")) for body in bodies}) > 1 and len(arguments) > 1 and _same_keys(arguments)
    schemas = {tool_name(tool): tool_parameters(tool) for tool in tools}

    def clean_call(call: Any) -> Any:
        if not isinstance(call, Mapping):
            return call
        if isinstance(call.get("function"), Mapping):
            return {**call, "function": clean_call(call["function"])}
        schema = schemas.get(call.get("name"))
        unsure = padded or (alike and schema is None)
        return {
            key: _unpad_arguments(value, schema, padded=unsure, drop=nulls == "drop") if key in ARGUMENT_KEYS else value
            for key, value in call.items()
        }

    def clean_message(message: Any) -> Any:
        if not isinstance(message, Mapping):
            return message
        changed = dict(message)
        calls = message.get("tool_calls")
        if isinstance(calls, Sequence) and not isinstance(calls, str):
            changed["tool_calls"] = [clean_call(call) for call in calls]
        if isinstance(message.get("function_call"), Mapping):
            changed["function_call"] = clean_call(message["function_call"])
        return changed

    return [clean_message(message) for message in messages]


def _call_bodies(messages: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """The objects of a row that hold a call's name and arguments."""
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        calls = message.get("tool_calls")
        listed = list(calls) if isinstance(calls, Sequence) and not isinstance(calls, str) else []
        for call in [*listed, message.get("function_call")]:
            if isinstance(call, Mapping):
                yield call["function"] if isinstance(call.get("function"), Mapping) else call


def _argument_objects(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [body[key] for key in ARGUMENT_KEYS if isinstance(body.get(key), Mapping)]


def _same_keys(values: Sequence[Any]) -> bool:
    return all(isinstance(value, Mapping) and value.keys() == values[0].keys() for value in values)


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(item is None or _has_null(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_has_null(item) for item in value)


def _unpad_arguments(value: Any, schema: Any, *, padded: bool, drop: bool) -> Any:
    """A JSON value of a call without padding, by its schema where there is one."""
    schema = schema if isinstance(schema, Mapping) else {}
    if isinstance(value, (list, tuple)):
        return [_unpad_arguments(item, schema.get("items"), padded=padded, drop=drop) for item in value]
    if not isinstance(value, Mapping):
        return value
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    return {
        key: _unpad_arguments(item, properties.get(key), padded=padded, drop=drop)
        for key, item in value.items()
        if item is not None or not (drop or _is_padding(key, schema, padded=padded))
    }


def _is_padding(key: str, schema: Mapping[str, Any], *, padded: bool) -> bool:
    """Whether a null under ``key`` of an object with this schema is padding."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return padded
    if key in properties:
        required = schema.get("required")
        needed = isinstance(required, Sequence) and key in required
        return padded and not needed and not _allows_null(properties[key])
    return padded or not schema.get("additionalProperties")


def _allows_null(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    types = schema.get("type")
    choices = schema.get("enum")
    return (
        schema.get("nullable") is True
        or types == "null"
        or (isinstance(types, (list, tuple)) and "null" in types)
        or (isinstance(choices, (list, tuple)) and None in choices)
        or any(_allows_null(option) for key in ("anyOf", "oneOf") for option in schema.get(key) or ())
    )


def _unpad_schema(value: Any, *, padded: bool, drop: bool) -> Any:
    """A tool, or a part of its schema, without padding."""
    if isinstance(value, (list, tuple)):
        return [_unpad_schema(item, padded=padded, drop=drop) for item in value]
    if not isinstance(value, Mapping):
        return value
    real = not drop and (not padded or _allows_null(value))
    return {
        key: _unpad_schema(item, padded=padded, drop=drop)
        for key, item in value.items()
        if item is not None or (real and key in ("default", "const"))
    }
