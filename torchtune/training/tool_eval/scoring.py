"""Scores generated tool calls against expected ones. Pure: the standard library only; the table needs ``rich``.

How values compare:

- by JSON type: a string never equals a number, ``True`` never equals 1, ``None`` equals only ``None``;
- numbers by value: 1 equals 1.0, since JSON has one number type and JSON Schema calls 1.0 an integer;
- strings exactly, or, with ``loose_strings``, as the Berkeley leaderboard compares them: case, spaces and the
  characters ``,./-_*^`` do not count, and single quotes equal double ones;
- lists element by element, in order; objects key by key, in any order.

An expected argument is one value, or (``any_of``) a list of accepted ones as the Berkeley rows have it. There an
empty string among the accepted values means that the argument may be left out, and the values of an object are lists
of accepted values again, at any depth.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from rich.table import Table

    from torchtune.data._message import ToolCall
    from torchtune.data.formats._base import ParsedMessage

_LOOSE = re.compile(r"[ ,./\-_*^]")


@dataclass(frozen=True)
class ExpectedCall:
    """A call that is right in a case.

    Args:
        name: name of the function.
        arguments: the arguments by name: the value, or with ``any_of`` the list of accepted values.
        any_of: True where ``arguments`` holds lists of accepted values.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    any_of: bool = False

    def first_choice(self) -> dict[str, Any]:
        """Arguments that are right: of each list of accepted values the first, absent where that is ``""``."""
        return _choose(self.arguments) if self.any_of else self.arguments


@dataclass
class CaseScore:
    """How the calls generated in one case compare with the expected ones.

    Args:
        expected: number of calls that were expected; 0 where no call is right.
        generated: number of calls that were generated, those that did not parse included.
        named: generated calls whose function was expected.
        matched: generated calls that are right in name and arguments.
        unknown: calls to a function that is not among the tools of the case.
        unparsed: calls that did not parse.
        complete: True if the end of the turn was generated.
        problems: what is wrong, a sentence each.
    """

    expected: int
    generated: int
    named: int
    matched: int
    unknown: int = 0
    unparsed: int = 0
    complete: bool = True
    problems: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """True if every expected call was made, with the right arguments, and no other."""
        return self.matched == self.expected == self.generated

    @property
    def names_exact(self) -> bool:
        """True if exactly the expected functions were called, whatever the arguments."""
        return self.named == self.expected == self.generated


def values_equal(expected: Any, value: Any, *, loose_strings: bool = False) -> bool:
    """True if two JSON values are the same under the rules at the top of this module."""
    return _same(expected, value, any_of=False, loose=loose_strings)


def value_accepted(accepted: Sequence[Any], value: Any, *, loose_strings: bool = False) -> bool:
    """True if ``value`` is one of the accepted values; values of objects in them are lists of accepted values."""
    return any(_same(choice, value, any_of=True, loose=loose_strings) for choice in accepted)


def call_problem(expected: ExpectedCall, call: ToolCall, *, loose_strings: bool = False) -> str | None:
    """What the first difference between a call and the expected one is; None where there is none."""
    if call.name != expected.name:
        return f"called {call.name!r}, expected {expected.name!r}"
    if not isinstance(call.arguments, dict):
        return f"{call.name}: the arguments are not an object but {call.arguments!r}"
    name = _first_difference(expected.arguments, call.arguments, expected.any_of, loose_strings)
    if name is None:
        return None
    if name not in expected.arguments:
        return f"{call.name}: unexpected argument {name!r}"
    want = expected.arguments[name]
    described = f"one of {_as_choices(want)!r}" if expected.any_of else repr(want)
    found = repr(call.arguments[name]) if name in call.arguments else "missing"
    return f"{call.name}: argument {name!r} is {found}, expected {described}"


def score_calls(
    expected: Sequence[ExpectedCall],
    calls: Sequence[ToolCall],
    *,
    tool_names: Collection[str] | None = None,
    unparsed: Sequence[str] = (),
    complete: bool = True,
    loose_strings: bool = False,
) -> CaseScore:
    """The score of the calls of a turn, in any order: as many as possible are matched with expected ones.

    Args:
        expected: the calls that are right; none where no call is right.
        calls: the calls that were generated.
        tool_names: names of the tools of the case; None: calls to unknown tools are not counted.
        unparsed: for each generated call that did not parse, the reason.
        complete: False if the end of the turn was not generated.
        loose_strings: compare strings as the Berkeley leaderboard does.
    """
    known = [call for call in calls if tool_names is None or call.name in tool_names]
    partner = _match(expected, calls, loose_strings)
    wanted, made = Counter(call.name for call in expected), Counter(call.name for call in calls)
    problems = [f"did not parse: {reason}" for reason in unparsed]
    problems += [f"{call.name}: there is no such tool" for call in calls if call not in known]
    left = [want for i, want in enumerate(expected) if i not in partner.values()]
    for j, call in enumerate(calls):
        if j in partner:
            continue
        same_name = next((want for want in left if want.name == call.name), None)
        if same_name is not None:
            left.remove(same_name)
            problems.append(call_problem(same_name, call, loose_strings=loose_strings) or "")
        elif call in known:
            problems.append(f"{call.name}: this call was not expected")
    problems += [f"{want.name}: this call is missing" for want in left]
    if not complete:
        problems.append("the turn was not finished")
    return CaseScore(
        expected=len(expected),
        generated=len(calls) + len(unparsed),
        named=sum((wanted & made).values()),
        matched=len(partner),
        unknown=len(calls) - len(known),
        unparsed=len(unparsed),
        complete=complete,
        problems=problems,
    )


def score_message(
    expected: Sequence[ExpectedCall],
    message: ParsedMessage,
    *,
    tool_names: Collection[str] | None = None,
    loose_strings: bool = False,
) -> CaseScore:
    """Score a parsed model output; see :func:`score_calls`.

    Args:
        message: what a format's ``parse`` gave.
    """
    return score_calls(
        expected,
        message.tool_calls,
        tool_names=tool_names,
        unparsed=[call.reason for call in message.unparsed],
        complete=message.complete,
        loose_strings=loose_strings,
    )


@dataclass
class ToolCallScores:
    """Counts over many cases, and the rates made of them. A rate whose denominator is 0 is None.

    Args:
        cases: cases scored.
        call_cases: those that need a call; the others need none.
        exact: cases that need a call and whose calls are exactly the expected ones.
        names: cases that need a call and call exactly the expected functions.
        missed: cases that need a call and have none, not even one that did not parse.
        over_called: cases that need no call and have one, be it one that did not parse.
        expected_calls, generated_calls, matched_calls, unknown_calls, unparsed_calls: counts of calls over all cases.
        unfinished: cases whose turn was not finished.
    """

    cases: int = 0
    call_cases: int = 0
    exact: int = 0
    names: int = 0
    missed: int = 0
    over_called: int = 0
    expected_calls: int = 0
    generated_calls: int = 0
    matched_calls: int = 0
    unknown_calls: int = 0
    unparsed_calls: int = 0
    unfinished: int = 0

    @classmethod
    def of(cls, scores: Iterable[CaseScore]) -> ToolCallScores:
        """The counts over these cases.

        Args:
            scores: a score for each case.
        """
        total = cls()
        for score in scores:
            total.add(score)
        return total

    def add(self, score: CaseScore) -> None:
        """Count one more case.

        Args:
            score: how the case scored.
        """
        self.cases += 1
        if score.expected:
            self.call_cases += 1
            self.exact += score.exact
            self.names += score.names_exact
            self.missed += score.generated == 0
        else:
            self.over_called += score.generated > 0
        self.expected_calls += score.expected
        self.generated_calls += score.generated
        self.matched_calls += score.matched
        self.unknown_calls += score.unknown
        self.unparsed_calls += score.unparsed
        self.unfinished += not score.complete

    @property
    def no_call_cases(self) -> int:
        """Cases in which no call is right."""
        return self.cases - self.call_cases

    def counts(self) -> dict[str, tuple[int, int]]:
        """Each measure as (count, out of how many), in the order of the table."""
        right = self.exact + self.no_call_cases - self.over_called
        return {
            "accuracy": (right, self.cases),
            "exact_match": (self.exact, self.call_cases),
            "name_match": (self.names, self.call_cases),
            "missed": (self.missed, self.call_cases),
            "over_calling": (self.over_called, self.no_call_cases),
            "call_recall": (self.matched_calls, self.expected_calls),
            "call_precision": (self.matched_calls, self.generated_calls),
            "unknown_tool": (self.unknown_calls, self.generated_calls),
            "unparsed": (self.unparsed_calls, self.generated_calls),
            "unfinished": (self.unfinished, self.cases),
        }

    def rates(self) -> dict[str, float | None]:
        """Each measure as a rate from 0 to 1."""
        return {name: count / of if of else None for name, (count, of) in self.counts().items()}

    def metrics(self, prefix: str = "tool_eval/") -> dict[str, float]:
        """The rates that have a value, under names for a metric logger.

        Args:
            prefix: put before each name.
        """
        return {f"{prefix}{name}": rate for name, rate in self.rates().items() if rate is not None}


#: What the table says about each measure, and whether more of it is better.
_LABELS = {
    "accuracy": ("Cases right (text is not judged)", True),
    "exact_match": ("Calls right: names and arguments", True),
    "name_match": ("Calls right: names", True),
    "missed": ("No call where one is needed", False),
    "over_calling": ("Call where none is right", False),
    "call_recall": ("Expected calls that were made", True),
    "call_precision": ("Calls made that were expected", True),
    "unknown_tool": ("Calls of tools that do not exist", False),
    "unparsed": ("Calls that did not parse", False),
    "unfinished": ("Turns cut off by the length limit", False),
}


def scores_table(columns: dict[str, ToolCallScores], title: str = "Tool calls") -> Table:
    """A ``rich`` table: a row for each measure that a column has, a column for each set of scores.

    Args:
        columns: scores by the head of their column.
        title: of the table.
    """
    from rich.table import Table

    table = Table(title=title)
    table.add_column("measure")
    for name in columns:
        table.add_column(name, justify="right")
    counts = {name: scores.counts() for name, scores in columns.items()}
    for measure, (label, better) in _LABELS.items():
        if any(of[measure][1] for of in counts.values()):
            arrow = "↑" if better else "↓"
            table.add_row(f"{label} {arrow}", *(_cell(*of[measure]) for of in counts.values()))
    return table


def _cell(count: int, of: int) -> str:
    return f"{100 * count / of:.1f}% ({count}/{of})" if of else "-"


def _as_choices(accepted: Any) -> list[Any]:
    return accepted if isinstance(accepted, list) else [accepted]


def _may_be_absent(accepted: Any) -> bool:
    return any(isinstance(choice, str) and choice == "" for choice in _as_choices(accepted))


def _same(want: Any, got: Any, *, any_of: bool, loose: bool) -> bool:
    """Whether ``got`` is ``want``; with ``any_of`` the values of objects in ``want`` are lists of accepted values."""
    if isinstance(want, bool) or isinstance(got, bool):
        return want is got
    if isinstance(want, (int, float)) and isinstance(got, (int, float)):
        return want == got
    if isinstance(want, str) and isinstance(got, str):
        return want == got or (loose and _loosened(want) == _loosened(got))
    if isinstance(want, (list, tuple)) and isinstance(got, (list, tuple)):
        pairs = zip(want, got, strict=False)
        return len(want) == len(got) and all(_same(w, g, any_of=any_of, loose=loose) for w, g in pairs)
    if isinstance(want, dict) and isinstance(got, dict):
        return _first_difference(want, got, any_of, loose) is None
    return want is None and got is None


def _first_difference(want: dict[str, Any], got: dict[str, Any], any_of: bool, loose: bool) -> str | None:
    """The first key of two objects that makes them differ."""
    for key, value in want.items():
        choices = _as_choices(value) if any_of else [value]
        if key not in got:
            if not (any_of and _may_be_absent(value)):
                return key
        elif not any(_same(choice, got[key], any_of=any_of, loose=loose) for choice in choices):
            return key
    return next((key for key in got if key not in want), None)


def _loosened(text: str) -> str:
    return _LOOSE.sub("", text).lower().replace("'", '"')


def _choose(arguments: dict[str, Any]) -> dict[str, Any]:
    chosen = {}
    for name, accepted in arguments.items():
        choices = _as_choices(accepted)
        if choices and not (isinstance(choices[0], str) and choices[0] == ""):
            chosen[name] = _choose_value(choices[0])
    return chosen


def _choose_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _choose(value)
    return [_choose_value(item) for item in value] if isinstance(value, list) else value


def _match(expected: Sequence[ExpectedCall], calls: Sequence[ToolCall], loose: bool) -> dict[int, int]:
    """The largest one-to-one matching of calls with expected calls that they fulfil: index of the call -> expected."""
    problem = partial(call_problem, loose_strings=loose)
    fulfils = [[j for j, call in enumerate(calls) if problem(want, call) is None] for want in expected]
    partner: dict[int, int] = {}
    for i in range(len(expected)):
        _augment(i, fulfils, partner, set())
    return partner


def _augment(i: int, fulfils: list[list[int]], partner: dict[int, int], tried: set[int]) -> bool:
    """Find a call for expected call ``i``, moving calls already given to others where that helps (Kuhn's algorithm)."""
    for j in fulfils[i]:
        if j not in tried:
            tried.add(j)
            if j not in partner or _augment(partner[j], fulfils, partner, tried):
                partner[j] = i
                return True
    return False
