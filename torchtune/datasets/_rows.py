"""Rows of a source. Local JSON is read without Arrow, all else through Hugging Face ``datasets``.

Arrow gives every object of a column the same keys: rows with tools, whose schemas and arguments differ from row to row,
come back padded with nulls or are refused. So JSON and JSONL files on disk are read as they are, one row at a time:
only the place of each row is kept in memory (20 bytes).
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
from array import array
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_log = logging.getLogger(__name__)
_SUFFIXES = (".json", ".jsonl", ".ndjson")
_WHITE = re.compile(r"[ \t\r\n]*")
#: Arguments of ``datasets.load_dataset`` that change nothing here; any other one sends the files to ``datasets``.
_NO_EFFECT = frozenset(
    [
        "name",
        "cache_dir",
        "download_config",
        "download_mode",
        "verification_mode",
        "keep_in_memory",
        "save_infos",
        "token",
        "num_proc",
        "storage_options",
    ]
)
#: Arguments of ``datasets.Dataset.filter`` that change nothing here.
_NO_EFFECT_ON_FILTER = frozenset(
    [
        "batch_size",
        "keep_in_memory",
        "load_from_cache_file",
        "cache_file_name",
        "writer_batch_size",
        "num_proc",
        "suffix_template",
        "new_fingerprint",
        "desc",
    ]
)


class Rows(Protocol):
    """A sequence of rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def load_rows(
    source: str,
    *,
    filter_fn: Callable[..., Any] | None = None,
    filter_kwargs: Mapping[str, Any] | None = None,
    **load_dataset_kwargs: Any,
) -> Rows:
    """The rows of a source.

    ``source`` is ``"json"`` with ``data_files``, or a path to a JSON or JSONL file: read without Arrow where the files are
    local. Else as ``datasets.load_dataset`` takes it. A source of several splits needs ``split`` among the arguments
    (``"train[:5%]"`` is one too).
    """
    if source.endswith(_SUFFIXES) and Path(source).is_file():
        source, load_dataset_kwargs = "json", {"data_files": source, **load_dataset_kwargs}
    load_dataset_kwargs = without_remote_code(load_dataset_kwargs)
    kwargs = {name: value for name, value in load_dataset_kwargs.items() if name not in _NO_EFFECT}
    if source == "json" and kwargs.keys() <= {"data_files", "split", "field"}:
        splits = _local_files(kwargs.get("data_files"))
        if splits is not None:
            found = JsonRows.from_split(splits, kwargs.get("split"), kwargs.get("field"))
            return found if filter_fn is None else found.filter(filter_fn, **(filter_kwargs or {}))
    from datasets import load_dataset

    rows = load_dataset(source, **load_dataset_kwargs)
    rows = rows[only_split(rows, source)] if isinstance(rows, dict) else rows
    return rows if filter_fn is None else rows.filter(filter_fn, **(filter_kwargs or {}))


def without_remote_code(load_dataset_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without ``trust_remote_code``, which is told of: code that stands beside data is never run."""
    if load_dataset_kwargs.get("trust_remote_code"):
        _log.warning("trust_remote_code is ignored: code of a hub is never run. Data in plain files load without it.")
    return {name: value for name, value in load_dataset_kwargs.items() if name != "trust_remote_code"}


def place_of(rows: Rows, index: int) -> str:
    """Where a row comes from, for errors: ``row 17 of data.jsonl``."""
    if isinstance(rows, JsonRows):
        return rows.place(index)
    index = range(len(rows))[index]
    indices = getattr(rows, "_indices", None)
    number = index if indices is None else indices.column(0)[index].as_py()
    split, info = getattr(rows, "split", None), getattr(rows, "info", None)
    name = " ".join(filter(None, [getattr(info, "dataset_name", None), f"({split})" if split else None]))
    return f"row {number + 1} of {name}" if name else f"row {number + 1}"


def only_split(splits: Mapping[Any, Any], source: str) -> str:
    """The name of the one split that there is."""
    if len(splits) != 1:
        raise ValueError(f"{source} has the splits {', '.join(map(str, splits))}: choose one with split=...")
    return next(iter(splits))


def _local_files(data_files: Any) -> dict[str, list[str]] | None:
    """The files of each split; None where one is not a plain JSON file on this machine."""
    if data_files is None:
        return None
    by_split = data_files if hasattr(data_files, "items") else {"train": data_files}
    splits: dict[str, list[str]] = {}
    for split, patterns in by_split.items():
        files = find_files(patterns, _SUFFIXES)
        if files is None:
            return None
        splits[str(split)] = files
    return splits


def find_files(patterns: Any, endings: tuple[str, ...]) -> list[str] | None:
    """The files that paths and patterns name; None where one is not on this machine, or ends in another way."""
    files: list[str] = []
    for pattern in [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns:
        path = os.path.expanduser(os.fspath(pattern))
        if "://" in path:
            return None
        found = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        found = [file for file in found if os.path.isfile(file)]
        if not found:
            raise FileNotFoundError(f"data_files: there is no file {path} (working directory: {os.getcwd()})")
        if any(not file.endswith(endings) for file in found):
            return None
        files += found
    return files


class _File:
    """A file that is opened when first read, so that it may be sent to another process. Forked processes may share it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self._file: BinaryIO | None = None
        self._modified = os.stat(path).st_mtime_ns

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def read(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` to ``end``."""
        if self._file is None:
            self._file = open(self.path, "rb")  # noqa: SIM115
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), end - start, start)
        self._file.seek(start)
        return self._file.read(end - start)

    def changed(self) -> bool:
        """Whether it was written to since the places of its rows were noted."""
        return os.stat(self.path).st_mtime_ns != self._modified


class JsonRows:
    """Rows of JSON or JSONL files, each parsed when it is asked for.

    A file holds one object per line, or one list of objects, or (``field``) an object with such a list under a key.
    """

    def __init__(self, paths: Sequence[str], field: str | None = None) -> None:
        self._files = [_File(path) for path in paths]
        self._firsts: list[int] = []
        self._starts, self._ends, self._numbers = array("q"), array("q"), array("i")
        for file in self._files:
            self._firsts.append(len(self._starts))
            _index(file, field, self._starts, self._ends, self._numbers)
        self._chosen: Sequence[int] = range(len(self._starts))

    @classmethod
    def from_split(cls, splits: Mapping[str, Sequence[str]], split: str | None, field: str | None) -> JsonRows:
        """The rows that ``split`` names: a split, slices of it (``train[:10]``, ``train[-5%:]``), or a sum of these."""
        split = only_split(splits, "data_files") if split is None else split
        terms = [_parse_split(term, splits) for term in str(split).split("+")]
        names = list(dict.fromkeys(name for name, _ in terms))
        rows = cls([path for name in names for path in splits[name]], field)
        firsts, spans = [*rows._firsts, len(rows._starts)], {}
        files = 0
        for name in names:
            spans[name] = range(firsts[files], firsts[files + len(splits[name])])
            files += len(splits[name])
        parts = [cut(spans[name]) for name, cut in terms]
        rows._chosen = parts[0] if len(parts) == 1 else array("q", [index for part in parts for index in part])
        return rows

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row, as it stands in the file."""
        at = self._chosen[index]
        file = self._file(at)
        try:
            row = json.loads(file.read(self._starts[at], self._ends[at]))
        except (ValueError, RecursionError) as error:
            why = "; the file was changed after it was opened" if file.changed() else ""
            raise ValueError(f"{self.place(index)}: not JSON: {_reason(error)}{why}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{self.place(index)}: a row must be an object, but this is {_shown(row)}")
        return row

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def fingerprint(self) -> str:
        """A hash of the files, and of which of their rows these are."""
        chosen = self._chosen
        found = hashlib.sha256(chosen.tobytes() if isinstance(chosen, array) else repr(chosen).encode())
        for file in self._files:
            with open(file.path, "rb") as opened:
                while block := opened.read(1 << 20):
                    found.update(block)
        return found.hexdigest()[:16]

    def place(self, index: int) -> str:
        """Where a row stands: its line in a file of lines, its number, from 1, in a list."""
        at = self._chosen[index]
        return f"row {self._numbers[at]} of {self._file(at).name}"

    def filter(
        self,
        function: Callable[..., Any] | None = None,
        with_indices: bool = False,
        input_columns: str | Sequence[str] | None = None,
        batched: bool = False,
        fn_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> JsonRows:
        """The rows for which ``function`` is true; arguments as for ``datasets.Dataset.filter``."""
        unknown = others.keys() - _NO_EFFECT_ON_FILTER
        if batched or unknown:
            names = ", ".join(sorted(unknown | ({"batched"} if batched else set())))
            raise ValueError(f"filter_kwargs: {names} is not supported for local JSON files")
        if function is None:
            return self
        columns = [input_columns] if isinstance(input_columns, str) else input_columns
        kept = array("q")
        for index, row in enumerate(self):
            arguments: list[Any] = [row] if columns is None else [row.get(column) for column in columns]
            if function(*arguments, *([index] if with_indices else []), **(fn_kwargs or {})):
                kept.append(self._chosen[index])
        filtered = object.__new__(JsonRows)
        filtered.__dict__.update(self.__dict__, _chosen=kept)
        return filtered

    def _file(self, at: int) -> _File:
        return self._files[bisect_right(self._firsts, at) - 1]


def _index(file: _File, field: str | None, starts: array[int], ends: array[int], numbers: array[int]) -> None:
    """Note where the rows of a file stand."""
    with open(file.path, "rb") as opened:
        head = opened.read(4096)
        start = text_start(head, file.name)
        opened.seek(start)
        if field is None and head[start:].lstrip()[:1] != b"[":
            _index_lines(opened, file, start, starts, ends, numbers)
            return
        # As Latin-1 every byte is a character, so that places in the text are places in the file.
        text = opened.read().decode("latin-1")
    at = _skip(text, 0) if field is None else _find_field(text, field, file.name)
    _index_list(text, start, at, file.name, starts, ends, numbers)


def text_start(head: bytes, name: str) -> int:
    """Where the text of a file begins, behind a byte order mark."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{name} is UTF-16; save it as UTF-8")
    return 3 if head[:3] == b"\xef\xbb\xbf" else 0


def _skip(text: str, at: int) -> int:
    """The next place that is not white space."""
    match = _WHITE.match(text, at)
    return match.end() if match else at


def _index_lines(
    opened: BinaryIO, file: _File, at: int, starts: array[int], ends: array[int], numbers: array[int]
) -> None:
    line = last = b""
    for number, line in enumerate(opened, start=1):
        if not line.isspace():
            starts.append(at)
            ends.append(at + len(line))
            numbers.append(number)
            last = line
        at += len(line)
    if last and file.name.endswith(".json"):
        _reject_object(file, last)


def _index_list(
    text: str, offset: int, at: int, name: str, starts: array[int], ends: array[int], numbers: array[int]
) -> None:
    """Note the items of the list that begins at ``at``."""
    decoder = json.JSONDecoder()
    at = _skip(text, at + 1)
    number = 0
    while text[at : at + 1] != "]":
        number += 1
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"row {number} of {name}: not JSON: {_reason(error)}") from error
        starts.append(offset + at)
        ends.append(offset + end)
        numbers.append(number)
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            found = repr(text[at : at + 10]) if at < len(text) else "the end of the file"
            raise ValueError(f"{name}: expected ',' or ']' after row {number}, found {found}")


def _find_field(text: str, field: str, name: str) -> int:
    """Where the list under a key of the file's one object begins."""
    decoder, at = json.JSONDecoder(), _skip(text, 0)
    try:
        while text[at : at + 1] in ("{", ","):
            key, at = decoder.raw_decode(text, _skip(text, at + 1))
            at = _skip(text, _skip(text, at) + 1)
            if key == field and text[at : at + 1] == "[":
                return at
            at = _skip(text, decoder.raw_decode(text, at)[1])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON: {_reason(error)}") from error
    raise ValueError(f"{name}: there is no list under the field {field!r}")


def _reject_object(file: _File, last: bytes) -> None:
    """Says of a file of one object over several lines that it is no file of lines, and what to do."""
    try:
        json.loads(last)
        return
    except (ValueError, RecursionError):
        pass
    try:
        whole = json.loads(Path(file.path).read_bytes())
    except (ValueError, RecursionError):
        return
    lists = [key for key, value in whole.items() if isinstance(value, list)] if isinstance(whole, dict) else []
    hint = f"; give field={lists[0]!r} for the list in it" if lists else ""
    raise ValueError(f"{file.name} holds one {_shown(whole)}; expected an object per line or a list of objects{hint}")


def _parse_split(term: str, splits: Mapping[str, Any]) -> tuple[str, Callable[[range], range]]:
    """A split's name, and the function that cuts its slice."""
    match = re.fullmatch(
        r"\s*(?P<name>[\w.-]+)\s*(?:\[\s*(?P<start>-?[\d_]+)?(?P<start_pct>%)?\s*:\s*(?P<stop>-?[\d_]+)?(?P<stop_pct>%)?"
        r"\s*\]\s*(?:\((?P<rounding>closest|pct1_dropremainder)\))?)?\s*",
        term,
    )
    if match is None:
        raise ValueError(f"split={term!r} is not a split such as 'train', 'train[:100]' or 'train[10%:20%]'")
    if match["name"] not in splits:
        raise ValueError(f"There is no split {match['name']!r}; data_files has {', '.join(map(repr, splits))}")

    def cut(rows: range) -> range:
        size = len(rows)

        def place(number: str | None, percent: str | None, default: int) -> int:
            if number is None:
                return default
            value = int(number)
            if percent or match["start_pct"] or match["stop_pct"]:
                whole = match["rounding"] == "pct1_dropremainder"
                value = value * (size // 100) if whole else round(value * size / 100)
            return max(size + value, 0) if value < 0 else min(value, size)

        return rows[place(match["start"], match["start_pct"], 0) : place(match["stop"], match["stop_pct"], size)]

    return match["name"], cut


def _reason(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _shown(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")
