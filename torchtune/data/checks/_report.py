"""What a check finds: errors, and numbers about the rows."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RowError:
    """One error of a row.

    Args:
        line: the line it is in, from 1: the row's line in JSONL, the line it starts in where a file holds a list, its
            number where the source has no lines (Parquet, the hub).
        row: the number of the row, from 1; 0 where the file itself is wrong.
        message: index of the message in the row, from 0; None where it is no message's.
        kind: a word for it, the same for all errors of a rule.
        text: what was found, what was expected, and where.
        field: the column, and what in it.
    """

    line: int
    row: int
    message: int | None
    kind: str
    text: str
    field: str = ""


@dataclass
class RowResult:
    """What is known of one row. ``key`` is the same for two rows that say the same; None where the row is no object."""

    line: int
    row: int
    errors: list[RowError] = field(default_factory=list)
    key: int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    called: list[str] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    length: int | None = None
    trained: int | None = None
    #: The row as ``fix`` writes it, where it was repaired, its key then, and what was repaired in it.
    repaired: bytes | None = None
    repaired_key: int | None = None
    repairs: list[str] = field(default_factory=list)

    def error(self, message: int | None, kind: str, text: str, place: str = "") -> RowError:
        """An error of the row."""
        return RowError(self.line, self.row, message, kind, text, place)


#: Notes on rows that are not wrong, and may be meant otherwise.
NOTES = {
    "no_tools": "with calls, but no tools, so their names and arguments are not checked (tools can be given for all rows)",
    "unanswered": "with a call in the middle that no result answers",
    "extra_arguments": "with arguments that the tool's schema does not name (and does not forbid)",
    "system_column": "with a column 'system' that is not read (style='apigen_mt' reads it as the first message)",
    "empty_question": "with a user message that says nothing",
    "ends_unanswered": "that end in a user message or a result, which nothing answers",
    "schema_dialect": "with schema types that JSON Schema does not know, read as what they mean (float as number, ...)",
}


@dataclass
class CheckReport:
    """What :func:`check_rows` found.

    Args:
        rows: number of rows.
        errors: all errors, in the order of the rows.
        counts: rows that are good and bad, messages by role, calls, results, and errors by kind.
        lengths: statistics of tokens per row, and under ``trained`` of trained tokens; None without a vocabulary.
        tools: how often each tool is called, the most called first; declared and never called ones at 0.
        notes: what is not wrong, but may not be meant.
        fix: what was written, repaired and left out; None where nothing was to be written.
    """

    rows: int = 0
    errors: list[RowError] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, Any] | None = None
    tools: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    fix: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """True if there is no error."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object; ``lengths`` and ``fix`` only where there are any."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Tally:
    """Adds rows up to a report."""

    def __init__(self, max_seq_len: int | None) -> None:
        self.report = CheckReport()
        self._max_seq_len = max_seq_len
        self._seen: dict[int, int] = {}
        self._counts: Counter[str] = Counter()
        self._called: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._lengths, self._trained = array("q"), array("q")
        self._bad = 0

    def add(self, result: RowResult) -> None:
        """Takes a row in; adds to its errors where it repeats an earlier one."""
        if result.key is not None:
            first = self._seen.get(result.key)
            if first is None:
                self._seen[result.key] = result.line
            else:
                text = f"The row says the same as the row at line {first}; expected each conversation once"
                result.errors.append(result.error(None, "duplicate_row", text))
        self.report.errors += result.errors
        if not result.row:
            return
        self.report.rows += 1
        self._bad += bool(result.errors)
        self._counts += result.counts
        self._called.update(result.called)
        for name in result.declared:
            self._called.setdefault(name, 0)
        self._notes.update(result.notes)
        if result.length is not None and result.trained is not None:
            self._lengths.append(result.length)
            self._trained.append(result.trained)

    def finish(self, has_lengths: bool, notes: list[str]) -> CheckReport:
        """The report; ``notes`` go before those of the rows."""
        report = self.report
        kinds = Counter(error.kind for error in report.errors)
        report.counts = {
            "good": report.rows - self._bad,
            "bad": self._bad,
            **{name: self._counts[name] for name in ("messages", "system", "user", "assistant", "tool", "calls")},
            "errors": dict(kinds.most_common()),
        }
        if has_lengths:
            report.lengths = {**_statistics(self._lengths), "trained": _statistics(self._trained)}
            if self._max_seq_len is not None:
                report.lengths["max_seq_len"] = self._max_seq_len
        report.tools = dict(self._called.most_common())
        report.notes = notes + [f"{n} row{'s' * (n > 1)} {NOTES[name]}" for name, n in self._notes.most_common()]
        return report


def _statistics(values: array[int]) -> dict[str, Any]:
    """Number, sum, least, middle, mean, 95th percentile and most of some lengths."""
    if not values:
        return {"rows": 0, "total": 0}
    ranked, count = sorted(values), len(values)
    return {
        "rows": count,
        "total": sum(ranked),
        "min": ranked[0],
        "median": ranked[count // 2],
        "mean": round(sum(ranked) / count, 1),
        "p95": ranked[min(count * 95 // 100, count - 1)],
        "max": ranked[-1],
    }
