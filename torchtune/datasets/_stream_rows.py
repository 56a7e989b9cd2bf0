"""Rows one after another, of files or of the hub, from any place on, without an index.

A :class:`RowStream` gives raw rows (a line is bytes until it is this process's turn to read it) in an order that seed and
epoch alone decide. Its state is a few numbers: rows are shuffled within windows, so a stream that goes on reads only the
window again that it stood in.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from torchtune.datasets._rows import (
    _NO_EFFECT,
    JsonRows,
    _reason,
    _shown,
    find_files,
    only_split,
    text_start,
    without_remote_code,
)

_LINES = (".jsonl", ".ndjson")
_FORMATS = {"json": (".json", *_LINES), "parquet": (".parquet",)}


class RawRow(NamedTuple):
    """A row: the place in its file, from 1, and what was read, which is bytes where it is not parsed yet."""

    number: int
    value: Any


class Reader(Protocol):
    """Raw rows of one file, in order. ``cursor`` says where the next one stands, in plain values."""

    name: str

    @property
    def cursor(self) -> Any: ...

    def __next__(self) -> RawRow: ...


class LineReader:
    """Lines of a JSONL file; a line that is white space is no row."""

    def __init__(self, path: str, cursor: Sequence[int] | None = None) -> None:
        self.name = os.path.basename(path)
        self._file = open(path, "rb")  # noqa: SIM115
        self._at, self._number = cursor or (0, 0)
        if not cursor:
            self._at = text_start(self._file.read(4096), self.name)
        self._file.seek(self._at)

    @property
    def cursor(self) -> list[int]:
        return [self._at, self._number]

    def __next__(self) -> RawRow:
        for line in self._file:
            self._at += len(line)
            self._number += 1
            if not line.isspace():
                return RawRow(self._number, line)
        self._file.close()
        raise StopIteration


class ListReader:
    """Rows of a JSON file that holds a list. It is indexed as a whole: for big data JSONL is better."""

    def __init__(self, path: str, cursor: int | None = None, field: str | None = None) -> None:
        self.name = os.path.basename(path)
        self._rows = JsonRows([path], field)
        self.cursor = cursor or 0

    def __next__(self) -> RawRow:
        if self.cursor >= len(self._rows):
            raise StopIteration
        self.cursor += 1
        return RawRow(self.cursor, self._rows[self.cursor - 1])


class ParquetReader:
    """Rows of a Parquet file, a row group at a time."""

    def __init__(self, path: str, cursor: int | None = None) -> None:
        from pyarrow.parquet import ParquetFile

        self.name = os.path.basename(path)
        self.cursor = cursor or 0
        self._batches = self._read(ParquetFile(path), self.cursor)
        self._rows: Iterator[dict[str, Any]] = iter(())

    @staticmethod
    def _read(file: Any, skip: int) -> Iterator[list[dict[str, Any]]]:
        groups: list[int] = []
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if groups or skip < rows:
                groups.append(group)
            else:
                skip -= rows
        for batch in file.iter_batches(batch_size=256, row_groups=groups):
            if skip < batch.num_rows:
                yield batch.slice(skip).to_pylist()
            skip = max(skip - batch.num_rows, 0)

    def __next__(self) -> RawRow:
        row = next(self._rows, None)
        while row is None:
            self._rows = iter(next(self._batches))
            row = next(self._rows, None)
        self.cursor += 1
        return RawRow(self.cursor, row)


class HubReader:
    """Rows of a ``datasets.IterableDataset``, whose own state is the cursor."""

    def __init__(self, rows: Any, cursor: Mapping[str, Any] | None = None) -> None:
        self.name = str(getattr(getattr(rows, "info", None), "dataset_name", None) or "the stream")
        self._dataset = rows
        self._number = 0
        if cursor is not None:
            rows.load_state_dict(copy.deepcopy(cursor["state"]))
            self._number = cursor["number"]
        self._rows = iter(rows)

    @property
    def cursor(self) -> dict[str, Any]:
        return {"state": copy.deepcopy(self._dataset.state_dict()), "number": self._number}

    def __next__(self) -> RawRow:
        row = next(self._rows)
        self._number += 1
        return RawRow(self._number, row)


def open_source(source: str, **load_dataset_kwargs: Any) -> list[Callable[[Any], Reader]]:
    """What opens each file of a source at a cursor (None: at its start).

    A source is ``"json"`` or ``"parquet"`` with local ``data_files``, a path to such a file, or whatever
    ``datasets.load_dataset`` streams, with its arguments; a slice of a split is refused, since it needs a length.
    """
    load_dataset_kwargs = without_remote_code(load_dataset_kwargs)
    kwargs = {name: value for name, value in load_dataset_kwargs.items() if name not in _NO_EFFECT}
    split = kwargs.pop("split", None)
    if split is not None and any(mark in str(split) for mark in "[+"):
        raise ValueError(
            f"split={split!r}: a stream has no length to cut at; name a whole split, or set streaming: false"
        )
    for form, endings in _FORMATS.items():
        if source.endswith(endings) and os.path.isfile(source):
            source, kwargs["data_files"] = form, source
    if source in _FORMATS and kwargs.keys() <= {"data_files", "field"}:
        files = _local_files(kwargs.get("data_files"), split, _FORMATS[source])
        if files:
            return [_opener(path, kwargs.get("field")) for path in files]
    others = {name: value for name, value in load_dataset_kwargs.items() if name != "split"}
    return [partial(_open_with_datasets, source, split, others)]


def _opener(path: str, field: str | None) -> Callable[[Any], Reader]:
    if path.endswith(_FORMATS["parquet"]):
        return partial(ParquetReader, path)
    is_list = field is not None
    if path.endswith(".json") and not is_list:
        with open(path, "rb") as file:
            is_list = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    return partial(ListReader, path, field=field) if is_list else partial(LineReader, path)


def _open_with_datasets(source: str, split: str | None, kwargs: Mapping[str, Any], cursor: Any) -> Reader:
    from datasets import load_dataset

    rows = load_dataset(source, split=split, streaming=True, **kwargs)
    return HubReader(rows[only_split(rows, source)] if isinstance(rows, dict) else rows, cursor)


def _local_files(data_files: Any, split: str | None, endings: tuple[str, ...]) -> list[str] | None:
    """The files of a split; None where one is not a file of this kind on this machine."""
    if data_files is None:
        return None
    if hasattr(data_files, "items"):
        splits = dict(data_files.items())
        split = only_split(splits, "data_files") if split is None else split
        if split not in splits:
            raise ValueError(f"There is no split {split!r}; data_files has {', '.join(map(repr, splits))}")
        data_files = splits[split]
    return find_files(data_files, endings)


class RowStream:
    """Raw rows of all files (``openers``) of a source, once; files are shuffled, and rows within a ``window`` of so many.

    ``seed`` and ``epoch`` decide the order, rows come as they stand where ``seed`` is None; ``keep`` chooses rows, each parsed
    for it; ``state`` is where another stream of the same arguments stood.
    """

    def __init__(
        self,
        openers: Sequence[Callable[[Any], Reader]],
        *,
        window: int,
        seed: int | None,
        epoch: int = 0,
        keep: Callable[..., Any] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._openers, self._window, self._seed, self._epoch, self._keep = openers, max(window, 1), seed, epoch, keep
        state = state or {"file": 0, "cursor": None, "window": 0, "taken": 0}
        self._file, self._number = state["file"], state["window"]
        self._reader: Reader | None = None
        self._cursor = state["cursor"]
        self._order = list(range(len(openers)))
        if seed is not None:
            np.random.default_rng([seed, epoch]).shuffle(self._order)  # type: ignore[arg-type]
        self._rows: list[tuple[Reader, RawRow] | None] = []
        self._fill()
        self._taken = state["taken"]

    def state(self) -> dict[str, Any]:
        """Where the stream stands: what the window began at, and the rows of it that were given."""
        return {**self._start, "taken": self._taken}

    def __next__(self) -> tuple[Reader, RawRow]:
        if self._taken >= len(self._rows) and self._rows:
            self._number += 1
            self._fill()
        if not self._rows:
            raise StopIteration
        row = self._rows[self._taken]
        assert row is not None
        self._rows[self._taken] = None  # lets go of the memory
        self._taken += 1
        return row

    def _fill(self) -> None:
        """Reads the next window."""
        if self._reader is not None:
            self._cursor = self._reader.cursor
        self._start = {"file": self._file, "cursor": self._cursor, "window": self._number}
        self._taken = 0
        rows: list[tuple[Reader, RawRow] | None] = []
        while len(rows) < self._window and self._file < len(self._order):
            if self._reader is None:
                self._reader = self._openers[self._order[self._file]](self._cursor)
            raw = next(self._reader, None)  # type: ignore[call-overload]
            if raw is None:
                self._file, self._reader, self._cursor = self._file + 1, None, None
            elif self._keep is None or self._keep(parse_row(self._reader, raw)):
                rows.append((self._reader, raw))
        if self._seed is not None:
            order = np.random.default_rng([self._seed, self._epoch, self._number]).permutation(len(rows))
            rows = [rows[i] for i in order]
        self._rows = rows


def parse_row(reader: Reader, raw: RawRow) -> Mapping[str, Any]:
    """The row, parsed; an error says which row of which file is no JSON object."""
    try:
        row = json.loads(raw.value) if isinstance(raw.value, bytes) else raw.value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"row {raw.number} of {reader.name}: not JSON: {_reason(error)}") from error
    if not isinstance(row, Mapping):
        raise ValueError(f"row {raw.number} of {reader.name}: a row must be an object, but this is {_shown(row)}")
    return row
