"""Preference rows: a chosen and a rejected conversation, each checked as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torchtune.data.checks._report import RowResult

if TYPE_CHECKING:
    from torchtune.data.checks._row import ReadRow, RowChecker

SIDES = ("chosen", "rejected")
#: What a rejected answer may well have been rejected for.
_ALLOWED = frozenset(["undeclared_tool", "missing_argument", "bad_argument", "empty_target"])


def is_preference(row: Mapping[str, Any], style: str = "auto") -> bool:
    """Whether a row has both columns, and rows with them are looked for."""
    return style in ("auto", "preference") and all(side in row for side in SIDES)


def read_sides(checker: RowChecker, result: RowResult, row: Mapping[str, Any], **options: Any) -> Iterator[ReadRow]:
    """The two conversations; where the row has a prompt that they do not begin with, it is put before them."""
    prompt = row.get("prompt")
    prompt = list(prompt) if isinstance(prompt, (list, tuple)) else []
    for side in SIDES:
        said = row[side]
        if isinstance(said, (list, tuple)) and list(said[: len(prompt)]) != prompt:
            said = [*prompt, *said]
        yield checker.read({**row, side: said}, result, column=side, **options)


def check_preference(checker: RowChecker, result: RowResult, row: Mapping[str, Any], **options: Any) -> None:
    """Adds all that is wrong with a preference row to its result. Indexes of messages count the prompt in."""
    from torchtune.data.checks._row import row_key

    reads = list(read_sides(checker, result, row, **options))
    if all(read.column for read in reads):
        result.key = row_key(row, *reads)
    pairs = zip(*(read.turns for read in reads), strict=False)
    shared = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(read.turns) for read in reads))
    for side, read in zip(SIDES, reads, strict=True):
        found = RowResult(result.line, result.row)
        if read.column:
            checker.judge(found, read)
        else:
            found.errors += read.errors
        for error in found.errors:
            common = (
                error.field.startswith(checker.options.tools_column)
                if error.message is None
                else error.message < shared
            )
            if side == "chosen" or not (common or error.kind in _ALLOWED):
                result.errors.append(replace(error, text=f"{side}: {error.text}"))
        result.counts += found.counts
        result.called += found.called
        result.declared = found.declared
        result.notes |= found.notes
        if found.length is not None and found.length > (result.length or 0):
            result.length, result.trained = found.length, found.trained
    if reads[0].turns and reads[0].turns == reads[1].turns and not result.errors:
        text = "chosen and rejected say the same; expected two answers, the first of them the better one"
        result.errors.append(result.error(None, "same_answers", text, "rejected"))
