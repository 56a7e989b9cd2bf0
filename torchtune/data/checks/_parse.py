"""A row from its bytes, and all that is wrong with them as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Deeper nesting is refused: writing and reading such a value would overflow the stack somewhere on its way.
MAX_DEPTH = 200
#: A row nested deeper than this is not looked into. Each Python has its own limit, and the older ones' is near 1,000.
_MAX_ROW_DEPTH = 500
_TOO_DEEP = ("nesting", f"The row is nested deeper than {MAX_DEPTH} levels")


def parse_row(data: bytes) -> tuple[dict[str, Any] | None, list[tuple[str, str]]]:
    """A row from its JSON, None where there is none, and what is wrong with the text."""
    faults: list[tuple[str, str]] = []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = data[error.start : error.start + 4]
        faults.append(("encoding", f"Not UTF-8 at byte {error.start + 1} of the row: found {found!r} ({error.reason})"))
        text = data.decode("utf-8", "replace")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            faults.append(
                ("repeated_key", f"The key {twice!r} stands twice in one object; only its last value would count")
            )
        return value

    def constant(name: str) -> None:
        faults.append(("bad_json", f"{name} is no JSON value; expected a number or null"))

    try:
        row = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        near = text[max(error.pos - 20, 0) : error.pos + 20]
        hint = "; more than one value in the line" if error.msg == "Extra data" else ""
        if text.strip() in ("{", "["):
            hint = "; a row stands in one line, but this one goes over several: write each with json.dumps(row)"
        elif text.lstrip().startswith("{'"):
            hint = "; it looks like a row that Python printed: write it with json.dumps(row)"
        return None, [*faults, ("bad_json", f"Not JSON: {error.msg} at character {error.pos + 1}, near {near!r}{hint}")]
    except RecursionError:
        return None, [*faults, _TOO_DEEP]
    except ValueError as error:  # a number with thousands of digits
        return None, [*faults, ("bad_json", f"Not usable JSON: {error}")]
    if text.count("{") + text.count("[") > _MAX_ROW_DEPTH and depth_of(row, _MAX_ROW_DEPTH) > _MAX_ROW_DEPTH:
        return None, [*faults, _TOO_DEEP]
    if not isinstance(row, dict):
        return None, [
            *faults,
            ("not_an_object", f"A row must be an object, but found {type(row).__name__}: {text[:80]!r}"),
        ]
    return row, faults


def depth_of(value: Any, limit: int = MAX_DEPTH) -> int:
    """How deep objects and lists are nested in a value; counts no further than past the limit."""
    kinds = (Mapping, list, tuple)
    level, depth = [value] if isinstance(value, kinds) else [], 0
    while level and depth <= limit:
        depth += 1
        items = (item.values() if isinstance(item, Mapping) else item for item in level)
        level = [inner for values in items for inner in values if isinstance(inner, kinds)]
    return depth
