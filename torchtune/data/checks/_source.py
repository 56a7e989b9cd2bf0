"""Rows of a source with their lines, one at a time, and what is wrong with them as JSON. Reading goes on after an error."""

from __future__ import annotations

import codecs
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_WHITE = re.compile(r"[ \t\r\n]*")
_STRUCTURE = re.compile(r'["{}\[\]]')
_STRING = re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Files that are no text, by how they begin.
_BINARY = {b"\x1f\x8b": "a gzip archive", b"PK\x03\x04": "a zip archive", b"PAR1": "a Parquet file", b"ARROW1": "Arrow"}
_WHOLE_FILE = 64 << 20
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_TABLES = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}
#: Deeper nesting is refused: writing and reading such a value would overflow the stack somewhere on its way.
MAX_DEPTH = 200
#: A row nested deeper than this is not looked into. Each Python has its own limit, and the older ones' is near 1,000.
_MAX_ROW_DEPTH = 500
_TOO_DEEP = ("nesting", f"The row is nested deeper than {MAX_DEPTH} levels")


@dataclass(slots=True)
class RawRow:
    """A row as it stands in the source: its bytes, or the object that a data set gave. ``row`` 0 is no row."""

    line: int
    row: int
    data: bytes | Mapping[str, Any] | None
    problem: tuple[str, str] | None = None

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return len(self.data) if isinstance(self.data, bytes) else 2048


def read_source(source: Any, *, split: str, max_row_bytes: int) -> Iterator[RawRow]:
    """The rows of a source."""
    if not isinstance(source, (str, Path)):
        return _given(source)
    path = Path(source).expanduser()
    if path.exists() and not path.is_dir() and path.suffix not in _TABLES:
        return _read_file(path, max_row_bytes)
    looks_local = path.suffix in (*JSON_SUFFIXES, *_TABLES) or str(source).startswith((".", "/", "~"))
    if looks_local and not path.exists():
        raise FileNotFoundError(f"There is no file {path} (working directory: {Path.cwd()})")
    if path.is_dir() and not any(one.suffix in (*JSON_SUFFIXES, *_TABLES) for one in path.rglob("*")):
        raise FileNotFoundError(f"The folder {path} has no file of rows; expected JSON, JSONL, Parquet or CSV in it")
    return _read_dataset(path, str(source), split)


def _given(rows: Iterable[Any]) -> Iterator[RawRow]:
    """Rows from memory; a row that is no object is an error of its own."""
    empty = True
    for number, row in enumerate(rows, start=1):
        empty = False
        problem = (
            None if isinstance(row, Mapping) else ("not_an_object", f"A row must be an object, but found {row!r:.80}")
        )
        yield RawRow(number, number, None if problem else row, problem)
    if empty:
        yield RawRow(1, 0, None, ("empty_file", "There are no rows; expected at least one"))


def _read_dataset(path: Path, source: str, split: str) -> Iterator[RawRow]:
    from torchtune.datasets._rows import load_rows

    kind, options = (_TABLES[path.suffix], {"data_files": str(path)}) if path.is_file() else (source, {})
    try:
        return _given(load_rows(kind, split=split, **options))  # type: ignore[arg-type]
    except FileNotFoundError:
        raise
    except Exception as error:  # each kind of file fails in its own way
        why = error.__cause__ or error
        text = " ".join(str(why).split())[:300]
        raise ValueError(f"{source} cannot be read: {type(why).__name__}: {text}") from error


def _read_file(path: Path, max_row_bytes: int) -> Iterator[RawRow]:
    with open(path, "rb") as given, tempfile.TemporaryFile() as copy:
        if not given.seekable():  # a pipe, as of zcat
            shutil.copyfileobj(given, copy)
            copy.seek(0)
        file = given if given.seekable() else copy
        head = file.read(4096)
        kind = next((kind for magic, kind in _BINARY.items() if head.startswith(magic)), None)
        if kind:
            text = f"The file is {kind}, not text; expected JSON or JSONL in UTF-8 (unpack it, or name it by its kind)"
            yield RawRow(1, 0, None, ("not_text", text))
            return
        # JSON begins with two ASCII characters, so where a NUL is among the first bytes tells UTF-16 without a mark.
        unmarked = {0: "utf-16-be", 1: "utf-16-le"}.get(head[:2].find(b"\0"))
        encoding = next((name for bom, name in _BOMS if head.startswith(bom)), unmarked)
        opened: BinaryIO = file
        if encoding:
            text = f"The file is {encoding.upper()}; expected UTF-8 (save it so, or let fix write it so)"
            yield RawRow(1, 0, None, ("encoding", text))
            file.seek(0)
            head = b""
            opened = io.BytesIO(file.read().decode(encoding, "replace").encode("utf-8", "replace"))
        start = 3 if head.startswith(codecs.BOM_UTF8) else 0
        opened.seek(start)
        first = opened.read(4096).lstrip()[:1]
        opened.seek(start)
        rows = _read_list(opened, max_row_bytes) if first == b"[" else _read_lines(opened, max_row_bytes)
        seen = False
        for row in rows:
            seen = True
            yield row
        if not seen:
            yield RawRow(1, 0, None, ("empty_file", f"{path.name} holds no rows; expected at least one"))


def _read_lines(file: BinaryIO, limit: int) -> Iterator[RawRow]:
    """A row for each line that is not blank."""
    line = row = 0
    while raw := file.readline(limit + 1):
        line += 1
        if raw.isspace() and len(raw) <= limit:
            continue
        row += 1
        if len(raw) > limit and not raw.endswith(b"\n"):
            size = len(raw)
            while not raw.endswith(b"\n") and (raw := file.readline(1 << 20)):
                size += len(raw)
            text = f"The line has {size:,} bytes; expected at most {limit:,} (max_row_bytes sets how many)"
            yield RawRow(line, row, None, ("row_too_large", text))
            continue
        if row == 1 and raw.lstrip()[:1] == b"{" and (found := _one_object(file, raw)):
            yield RawRow(line, 0, None, ("not_rows", found))
            return
        yield RawRow(line, row, raw)


def _one_object(file: BinaryIO, first: bytes) -> str | None:
    """What to say where a file is one JSON object over several lines."""
    try:
        json.loads(first)
        return None
    except (ValueError, RecursionError):
        at = file.tell()
    rest = file.read(_WHOLE_FILE + 1)
    file.seek(at)
    try:
        whole = json.loads(first + rest) if len(rest) <= _WHOLE_FILE else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(whole, dict):
        return None
    lists = [key for key, value in whole.items() if isinstance(value, list)]
    hint = f"; the list under {lists[0]!r} may be what is meant: save it alone" if lists else ""
    return f"The file holds one object over several lines; expected an object per line or a list of objects{hint}"


def _read_list(file: BinaryIO, limit: int) -> Iterator[RawRow]:
    """The items of a list. The text is read as Latin-1, so that places in it are places in the file."""
    text = file.read().decode("latin-1")
    at = _skip(text, _skip(text, 0) + 1)
    decoder, line, counted, row = json.JSONDecoder(), 1, 0, 0
    while at < len(text) and text[at] != "]":
        row += 1
        line += text.count("\n", counted, at)
        counted = at
        try:
            end: int | None = decoder.raw_decode(text, at)[1]
        except (ValueError, RecursionError):
            end = _find_end(text, at)
        if end is None:
            text_of_rest = "The row does not end: no bracket closes it. The rest of the file was not read"
            yield RawRow(line, row, None, ("bad_json", text_of_rest))
            return
        size = end - at
        large = (
            "row_too_large",
            f"The row has {size:,} bytes; expected at most {limit:,} (max_row_bytes sets how many)",
        )
        yield RawRow(line, row, None, large) if size > limit else RawRow(line, row, text[at:end].encode("latin-1"))
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            found = repr(text[at : at + 10]) if at < len(text) else "the end of the file"
            problem = ("bad_json", f"Expected ',' or ']' after row {row}, but found {found}. The rest was not read")
            yield RawRow(line + text.count("\n", counted, at), 0, None, problem)
            return
    rest = _skip(text, at + 1)
    if rest < len(text):
        problem = (
            "bad_json",
            f"After the list there is more: {text[rest : rest + 40]!r}; expected the end of the file",
        )
        yield RawRow(line + text.count("\n", counted, rest), 0, None, problem)


def _skip(text: str, at: int) -> int:
    match = _WHITE.match(text, at)
    return match.end() if match else at


def _find_end(text: str, at: int) -> int | None:
    """Where an item that is not JSON ends, by its brackets; by its comma where it has none."""
    depth = 0
    while match := _STRUCTURE.search(text, at):
        found, at = match[0], match.end()
        if found == '"':
            string = _STRING.match(text, at)
            if string is None:
                return None
            at = string.end()
            continue
        depth += 1 if found in "{[" else -1
        if depth == 0:
            return at
        if depth < 0:
            return match.start()
    return None


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
