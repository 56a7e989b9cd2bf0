"""Values that JSON text in UTF-8 can hold, and Python literals that stand for such values. Pure: the standard library only."""

from __future__ import annotations

import ast
import json
import marshal
from typing import Any

from torchtune.data._tool_calls import unique_keys

#: Half a character, floats that are not finite, and JSON escapes, have one of these among their marshalled bytes; few else.
_ODD = (b"\xed", b"\x7f", b"\xff", b"\\u")


def may_be_unwritable(value: Any) -> bool:
    """Whether :func:`check_writable` has to look closer at what is read from a value: a look at its bytes is fast."""
    try:
        data = marshal.dumps(value)
    except ValueError:  # holds what is no plain value
        return True
    return _ODD[0] in data or _ODD[1] in data or _ODD[2] in data or _ODD[3] in data


def check_writable(value: Any, where: str) -> None:
    """Refuses a value with half a character (the cause is a UnicodeError), or a number that is NaN or infinite."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"{where} holds half a character, {half!a}, which no UTF-8 text can") from error
    except ValueError as error:
        raise ValueError(f"{where} holds NaN or an infinite number, which is no JSON value") from error
    except (RecursionError, TypeError):  # told where it is written
        pass


def read_literal(text: str, where: str) -> Any:
    """The JSON value that a Python literal stands for: ``{'a': (1, True)}`` is ``{"a": [1, true]}``; else a ValueError."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                unique_keys([(ast.literal_eval(key) if key else "", None) for key in node.keys])
        return json.loads(json.dumps(ast.literal_eval(tree), allow_nan=False))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{where}: {error}: {text[:80]!r}") from error
