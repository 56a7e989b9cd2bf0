"""Writing the rows that are right, and those that can be repaired without guessing."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchtune.data._json_values import read_literal
from torchtune.data._tool_calls import ARGUMENT_KEYS
from torchtune.data._turns import CALL_ROLES
from torchtune.data.checks._report import RowError, RowResult
from torchtune.data.checks._row import RowChecker
from torchtune.data.checks._source import RawRow, parse_row


def repair(checker: RowChecker, data: bytes | Mapping[str, Any], result: RowResult) -> bytes | None:
    """A row without its errors, as a line of JSON, where each of them has one possible repair; else None."""
    row = dict(copy.deepcopy(data)) if isinstance(data, Mapping) else parse_row(data)[0]
    if row is None:
        return None
    column = checker._column(row)
    messages = row.get(column)
    if not isinstance(messages, list):
        return None
    done = []
    for error in result.errors:
        mend = _REPAIRS.get(error.kind)
        said = mend(messages, error) if mend is not None and error.message is not None else ""
        if not said:
            return None
        done.append(f"message {error.message}: {said}")
    written = _written(row, result.line)
    again = checker.check(result.line, result.row, written)
    if again.errors:
        return None
    result.repairs, result.repaired_key = done, again.key
    return written


def _mend_literal(messages: list[Any], error: RowError) -> str:
    """Calls and arguments written as Python literals, ``{'a': True}``, become JSON: there is one value they can mean."""
    message = messages[error.message or 0]
    if not isinstance(message, dict):
        return ""
    is_call = message.get("role", message.get("from")) in CALL_ROLES
    changed = False
    for key in ("value", "content") if is_call else ("tool_calls", "function_call"):
        if key in message:
            fixed = _as_json(message[key])
            changed = changed or fixed != message[key]
            message[key] = fixed
    return "a Python literal became JSON" if changed else ""


def _as_json(value: Any) -> Any:
    """A value whose texts that are Python literals of objects or lists are JSON texts."""
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):
        return {k: _as_json(v) if k in (*ARGUMENT_KEYS, "function") else v for k, v in value.items()}
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        json.loads(value)
        return value
    except (ValueError, RecursionError):
        pass
    try:
        return json.dumps(read_literal(value, "a call"), ensure_ascii=False)
    except ValueError:
        return value


def _mend_result_id(messages: list[Any], error: RowError) -> str:
    """The only result of the only call before it can answer no other call."""
    at = error.message or 0
    before = messages[at - 1] if at else None
    following = messages[at + 1] if at + 1 < len(messages) else None
    calls = before.get("tool_calls") if isinstance(before, dict) else None
    others = isinstance(following, dict) and following.get("role") in ("tool", "ipython")
    if not isinstance(calls, list) or len(calls) != 1 or others or not isinstance(calls[0].get("id"), str):
        return ""
    earlier = messages[at - 2] if at > 1 else None
    if isinstance(earlier, dict) and earlier.get("role") == "assistant":
        return ""
    messages[at]["tool_call_id"] = calls[0]["id"]
    return f"tool_call_id became {calls[0]['id']!r}, the only call before it"


_REPAIRS: dict[str, Callable[[list[Any], RowError], str]] = {
    "bad_call": _mend_literal,
    "unknown_result_id": _mend_result_id,
}


class FixWriter:
    """Writes rows to a file that takes its place when all is done."""

    def __init__(self, path: str | os.PathLike[str], source: Any) -> None:
        self._path = Path(path).expanduser()
        both = isinstance(source, (str, Path)) and self._path.exists() and Path(source).exists()
        if both and self._path.samefile(source):
            raise ValueError(f"fix would overwrite the rows it reads, {self._path}; name another file")
        if self._path.exists() and not self._path.is_file():
            raise ValueError(f"fix would take the place of {self._path}, which is no file; name a file")
        if not self._path.parent.is_dir():
            raise ValueError(f"fix: there is no folder {self._path.parent} (working directory: {Path.cwd()})")
        self._written = 0
        self._keys: set[int] = set()
        self._repaired: list[dict[str, Any]] = []
        self._left_out: list[int] = []

    def __enter__(self) -> FixWriter:
        folder = self._path.parent
        self._file = tempfile.NamedTemporaryFile("wb", dir=folder, prefix=f".{self._path.name}.", delete=False)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.close()
        if kind is not None:
            os.unlink(self._file.name)
            return
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(self._file.name, 0o666 & ~mask)
        os.replace(self._file.name, self._path)

    def add(self, raw: RawRow, result: RowResult) -> None:
        """Writes a row that is right or was repaired, once; notes one that is left out."""
        fine = not result.errors or result.repaired is not None
        key = result.key if result.repaired is None else result.repaired_key
        if not fine or key in self._keys:
            self._left_out.append(result.line)
            return
        if key is not None:
            self._keys.add(key)
        if result.repaired is not None:
            self._repaired.append({"line": result.line, "repairs": result.repairs})
            self._file.write(result.repaired)
        elif isinstance(raw.data, Mapping):
            self._file.write(_written(raw.data, raw.line))
        else:
            # Line breaks stand between the values of a JSON text only.
            self._file.write((raw.data or b"").strip().replace(b"\n", b" ") + b"\n")
        self._written += 1

    def report(self) -> dict[str, Any]:
        """What was written: number of rows, those repaired, and the lines of those left out."""
        return {
            "file": str(self._path),
            "written": self._written,
            "repaired": self._repaired,
            "left_out": self._left_out,
        }


def _written(row: Mapping[str, Any], line: int) -> bytes:
    """A row from memory or a table as a line of JSON; times become text."""

    def text_of(value: Any) -> str:
        if hasattr(value, "isoformat"):
            return value.isoformat()
        raise ValueError(f"it holds {type(value).__name__}")

    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=text_of) + "\n"
    except ValueError as error:
        raise ValueError(f"fix: row {line} is no JSON: {error}; leave out the column that holds it") from error
    return text.encode("utf-8", "backslashreplace")  # half a character, as JSON escapes it
