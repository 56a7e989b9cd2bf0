"""Rewards for conversations with tools. Each is called with an :class:`~torchtune.rlhf.tools.Episode` and gives a number.

What is right stands in the row: ``expected_calls``, a list of calls in any form that datasets write, and ``answer``, a text.
"""

from __future__ import annotations

import re
from typing import Any

from torchtune.data._tool_calls import read_calls
from torchtune.rlhf.tools._episode import Episode
from torchtune.training.tool_eval.scoring import ExpectedCall, score_calls, values_equal


class Reward:
    """A reward function: ``weight`` times a score from 0 to 1.

    Args:
        weight: what a perfect score is worth; negative makes it a penalty.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def score(self, episode: Episode) -> float:
        """The score of a conversation, from 0 to 1.

        Args:
            episode: a conversation that has ended.
        """
        raise NotImplementedError

    def __call__(self, episode: Episode) -> float:
        """The reward of a conversation."""
        return self.weight * self.score(episode)


class _OfExpectedCalls(Reward):
    """A reward that compares with the calls a row expects.

    Args:
        weight: what a perfect score is worth.
        column: the row's column of expected calls.
    """

    def __init__(self, weight: float = 1.0, column: str = "expected_calls") -> None:
        super().__init__(weight)
        self.column = column

    def expected(self, episode: Episode) -> list[ExpectedCall]:
        """The calls that a row expects."""
        if self.column not in episode.row:
            raise ValueError(
                f"{type(self).__name__}: the row has no column {self.column!r} with the expected calls; it has "
                f"{sorted(episode.row)}"
            )
        calls = read_calls(episode.row[self.column] or [], self.column)
        return [ExpectedCall(call["name"], call["arguments"]) for call in calls]


class CallNameReward(_OfExpectedCalls):
    """The share of calls with an expected name: twice those, divided by the calls made and the calls expected."""

    def score(self, episode: Episode) -> float:
        wanted = [call.name for call in self.expected(episode)]
        total = len(wanted) + len(episode.calls)
        found = 0
        for record in episode.calls:
            if record.call.name in wanted:
                wanted.remove(record.call.name)
                found += 1
        return 2 * found / total if total else 1.0


class CallArgumentsReward(_OfExpectedCalls):
    """The share of arguments that are right, over the expected calls; each is compared with the best call of its name."""

    def score(self, episode: Episode) -> float:
        expected = self.expected(episode)
        left = [record.call for record in episode.calls]
        scores = []
        for want in expected:
            same = [(i, call) for i, call in enumerate(left) if call.name == want.name]
            candidates = [(_share_right(want, call.arguments), i) for i, call in same]
            best, at = max(candidates, default=(0.0, -1), key=lambda pair: (pair[0], -pair[1]))
            scores.append(best)
            if at >= 0:
                left.pop(at)
        return sum(scores) / len(scores) if scores else float(not episode.calls)


class ExactCallsReward(_OfExpectedCalls):
    """1 if every expected call was made, with the right arguments, and no other."""

    def score(self, episode: Episode) -> float:
        return float(score_calls(self.expected(episode), [record.call for record in episode.calls]).exact)


class OutcomeReward(Reward):
    """1 if the last turn says what the row's answer is.

    Args:
        weight: what a right answer is worth.
        column: the row's column with the answer.
        exact: the whole text must be the answer; else it must be in it as a word, where numbers compare by value.
    """

    def __init__(self, weight: float = 1.0, column: str = "answer", exact: bool = False) -> None:
        super().__init__(weight)
        self.column = column
        self.exact = exact

    def score(self, episode: Episode) -> float:
        """See :class:`Reward`.

        Raises:
            ValueError: if the row lacks the column of the right answer.
        """
        if episode.ended != "answer":
            return 0.0
        if self.column not in episode.row:
            raise ValueError(f"OutcomeReward: the row has no column {self.column!r}; it has {sorted(episode.row)}")
        answer, text = str(episode.row[self.column]).strip(), episode.text.strip()
        if self.exact:
            return float(text == answer)
        number = _number(answer)
        if number is not None:
            return float(any(abs(found - number) <= 1e-9 * max(1, abs(number)) for found in _numbers(text)))
        return float(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None)


class FormatReward(Reward):
    """The share of turns that are well formed: they end, each call in them can be read, and its tool can be called so."""

    def score(self, episode: Episode) -> float:
        turns = len(episode.turns)
        bad = 1 if episode.ended in ("length", "unparsed") else 0
        wrong = [record for record in episode.calls if record.result is not None and record.result.outcome == "error"]
        return max(0.0, 1 - (bad + len(wrong)) / max(turns + len(episode.calls), 1))


class EnvironmentReward(Reward):
    """What the environment's ``reward()`` says."""

    def score(self, episode: Episode) -> float:
        """See :class:`Reward`.

        Raises:
            ValueError: if there is no environment that says.
        """
        if episode.environment_reward is None:
            raise ValueError("EnvironmentReward needs tools.environment with a method reward(); the tools have none")
        return episode.environment_reward


def _share_right(expected: ExpectedCall, arguments: Any) -> float:
    if not isinstance(arguments, dict):
        return 0.0
    names = expected.arguments.keys() | arguments.keys()
    both = expected.arguments.keys() & arguments.keys()
    right = [name for name in both if values_equal(expected.arguments[name], arguments[name])]
    return len(right) / len(names) if names else 1.0


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)]
