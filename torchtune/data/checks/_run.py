"""All rows of a source, checked one after the other or in several processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torchtune.data._selectors import TrainOn
from torchtune.data._tool_sets import TOOL_SETS
from torchtune.data.checks._fix import FixWriter, repair
from torchtune.data.checks._model import find_model
from torchtune.data.checks._report import CheckReport, RowResult, Tally
from torchtune.data.checks._row import COLUMNS, Options, RowChecker
from torchtune.data.checks._source import RawRow, read_source

#: A chunk of rows that a process checks at once, and the bytes of rows from which several processes pay.
_CHUNK_ROWS, _CHUNK_BYTES, _PARALLEL_BYTES = 128, 1 << 19, 4 << 20
_worker: tuple[RowChecker, bool]


def check_rows(
    source: Any,
    *,
    style: str = "auto",
    model: Any = None,
    conversation_column: str | None = None,
    tools: Sequence[Mapping[str, Any]] | str | os.PathLike[str] | None = None,
    tools_column: str = "tools",
    builtin_tools: Collection[str] = (),
    parse_text_calls: bool = False,
    max_seq_len: int | None = None,
    chat_format: str | None = None,
    train_on: TrainOn = "message",
    format_options: Mapping[str, Any] | None = None,
    split: str = "train",
    fix: str | os.PathLike[str] | None = None,
    max_row_bytes: int = 16 << 20,
    processes: int | None = None,
) -> CheckReport:
    """Checks rows of conversations before they train: every error of every row, not only the first.

    Args:
        source: a JSON, JSONL, Parquet or CSV file, the name of a data set on the hub, or the rows themselves.
        style: ``"openai"``, ``"sharegpt"``, ``"preference"`` (``chosen`` and ``rejected``, and maybe ``prompt``),
            ``"auto"``: by the columns that a row has; or a public set whose rows these are, as
            :func:`~torchtune.datasets.tool_calling_dataset` names it.
        model: what the rows are to be written by: a format's name, a folder with a tokenizer's files, or a model
            tokenizer. None leaves out what formats refuse; a name alone leaves out lengths.
        conversation_column: the rows' name for the conversation. Default: ``messages`` or ``conversations``.
        tools: the tools of rows that have none of their own: function schemas, or a JSON file of them.
        tools_column: the rows' name for their tools.
        builtin_tools: names that may be called without being among the tools.
        parse_text_calls: read Hermes-style ``<tool_call>`` in the assistant's text as calls.
        max_seq_len: rows with more tokens are errors; needs a vocabulary.
        chat_format: for the tokenizer, see the model tokenizers.
        train_on: likewise.
        format_options: options of the chat format, such as ``call_ids="derive"`` of Mistral's.
        split: the split of a data set.
        fix: a file to write the rows to that are right, or that can be repaired without guessing.
        max_row_bytes: a row with more is an error, and not read.
        processes: how many check. Default: one for each core where that pays and is safe, else one.

    Returns:
        The report.

    Raises:
        ValueError: if an option has no such value, or the model is not known.
        FileNotFoundError: if there is no such file.
    """
    styles = ("auto", *COLUMNS, "preference", *TOOL_SETS)
    if style not in styles:
        raise ValueError(f"style must be one of {', '.join(map(repr, styles))}; found {style!r}")
    if max_seq_len is not None and max_seq_len < 1:
        raise ValueError(f"max_seq_len must be 1 or more; found {max_seq_len}")
    found = None
    if model is not None:
        found = find_model(model, chat_format=chat_format, train_on=train_on, format_options=format_options)
    options = Options(
        style=style,
        conversation_column=conversation_column,
        tools_column=tools_column,
        tools=tools,
        builtin_tools=tuple(builtin_tools),
        parse_text_calls=parse_text_calls,
        max_seq_len=max_seq_len,
    )
    checker = RowChecker(options, found)
    has_lengths = found is not None and found.tokenizer is not None
    notes = []
    if max_seq_len is not None and not has_lengths:
        notes.append(f"max_seq_len={max_seq_len} was not checked: the model is a name alone, without a vocabulary")
    raw = read_source(source, split=split, max_row_bytes=max_row_bytes)
    tally = Tally(max_seq_len)
    count = _process_count(source, processes)
    with nullcontext() if fix is None else FixWriter(fix, source) as writer:
        for chunk, results in _check_all(checker, _chunks(raw), count, fix is not None):
            for row, result in zip(chunk, results, strict=True):
                tally.add(result)
                if writer is not None and row.row:
                    writer.add(row, result)
    report = tally.finish(has_lengths, notes)
    if writer is not None:
        report.fix = writer.report()
    return report


def _process_count(source: Any, processes: int | None) -> int:
    """How many processes check. They are forked, so that they share the vocabulary; that is safe with one thread only."""
    safe = sys.platform == "linux" and threading.active_count() == 1
    if processes is not None or not safe:
        return max(processes or 1, 1) if safe else 1
    small = isinstance(source, (str, Path)) and Path(source).is_file() and Path(source).stat().st_size < _PARALLEL_BYTES
    return 1 if small or isinstance(source, list) and len(source) < 1000 else len(os.sched_getaffinity(0))


def _chunks(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    chunk: list[RawRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += row.size
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _check_all(
    checker: RowChecker, chunks: Iterator[list[RawRow]], processes: int, fix: bool
) -> Iterator[tuple[list[RawRow], list[RowResult]]]:
    """The results of the chunks, in order; few chunks are held at a time."""
    if processes == 1:
        for chunk in chunks:
            yield chunk, _check_chunk(checker, chunk, fix)
        return
    from concurrent.futures import Future, ProcessPoolExecutor

    context = multiprocessing.get_context("fork")
    waiting: deque[tuple[list[RawRow], Future[list[RowResult]]]] = deque()
    with ProcessPoolExecutor(processes, context, _start_worker, (checker, fix)) as pool:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_work, chunk)))
            if len(waiting) > 2 * processes:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()


def _start_worker(checker: RowChecker, fix: bool) -> None:
    global _worker
    _worker = (checker, fix)


def _work(chunk: list[RawRow]) -> list[RowResult]:
    checker, fix = _worker
    return _check_chunk(checker, chunk, fix)


def _check_chunk(checker: RowChecker, chunk: list[RawRow], fix: bool) -> list[RowResult]:
    results = []
    for raw in chunk:
        result = checker.check_raw(raw)
        if fix and result.errors and raw.data is not None and raw.problem is None:
            result.repaired = repair(checker, raw.data, result)
        results.append(result)
    return results
