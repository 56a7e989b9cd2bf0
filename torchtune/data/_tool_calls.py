"""Reading tool calls from what data sets write. Pure: the standard library only.

A call is read to ``{"name": str, "arguments": dict, "id": str | None}``, whatever its form in the row. Nothing is
dropped: what cannot be read is a ValueError that says where it stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

#: Names under which data sets keep a call's arguments: OpenAI, Llama, Anthropic.
ARGUMENT_KEYS = ("arguments", "parameters", "input", "args")
#: What else stands in a call. Anything more in one without arguments may be these under another name.
_CALL_KEYS = frozenset(("name", "id", "type", "index", "function", "call_id", "status", *ARGUMENT_KEYS))


def read_json(text: str, where: str) -> Any:
    """The value of a JSON text that says no key twice; errors name ``where`` and the position."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        start = max(error.pos - 20, 0)
        raise ValueError(
            f"{where}: not valid JSON: {error.msg} at character {error.pos}, near {text[start : error.pos + 20]!r}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not usable JSON: {error}: {text[:80]!r}") from error


def read_arguments(value: Any, where: str) -> dict[str, Any]:
    """The arguments of a call, from an object or a JSON string of one; None and "" mean none."""
    if isinstance(value, dict):
        return dict(value)
    for _ in range(2):  # some data sets encode the string twice
        if isinstance(value, str):
            value = read_json(value, where) if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: arguments must be an object, but found {type(value).__name__}: {str(value)[:80]!r}")
    return dict(value)


def read_call(value: Any, where: str) -> dict[str, Any]:
    """One call, from OpenAI's ``{"id", "type", "function": {"name", "arguments"}}``, a bare object or a JSON string."""
    if isinstance(value, str):
        value = read_json(value, where)
    if not isinstance(value, (dict, Mapping)):
        raise ValueError(
            f"{where}: a call must be an object with 'name' and 'arguments', but found {str(value)[:80]!r}"
        )
    body = value.get("function")
    if isinstance(body, str) and body.lstrip().startswith("{"):
        body = read_json(body, where)
    body = body if isinstance(body, (dict, Mapping)) else value
    name = body.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: the call has no name; found keys {sorted(map(str, body))}")
    given = [key for key in ARGUMENT_KEYS if body.get(key) is not None]
    if not given:
        body = {**value, **body}
        unknown = [key for key, said in body.items() if key not in _CALL_KEYS and said is not None]
        unknown += [key for key in ARGUMENT_KEYS if value.get(key) is not None]
        if unknown:
            raise ValueError(f"{where}: the call of {name!r} has no 'arguments' beside its name, but {unknown}")
    elif len(given) > 1:
        raise ValueError(f"{where}: the call of {name!r} has arguments under {given}; expected one of them")
    arguments = read_arguments(body[given[0]] if given else None, f"{where}, call of {name!r}")
    return {"name": name, "arguments": arguments, "id": read_id(value.get("id"))}


def read_id(value: Any) -> str | None:
    """The id of a call, as text; an empty one names no call, so it is none."""
    return None if value is None or value == "" else str(value)


def read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """The calls of one message: a list of calls, one call, or either as a JSON string; None and "" mean none."""
    if isinstance(value, str):
        value = read_json(value, where) if value.strip() else None
    if value is None:
        return []
    if isinstance(value, (dict, Mapping)):
        return [read_call(value, where)]
    if not isinstance(value, (list, Sequence)) or isinstance(value, str):
        raise ValueError(f"{where}: expected a call or a list of calls, but found {str(value)[:80]!r}")
    return [read_call(item, f"{where}, call {i}") for i, item in enumerate(value)]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in seen if seen.count(key) > 1)!r} stands twice in one object")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=_no_constant, parse_float=_finite)
