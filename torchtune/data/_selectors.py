"""Which tokens of a conversation are trained, and how much: a policy over who owns each of them. Pure: no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torchtune.data._message import Message
    from torchtune.data.formats._base import Part

#: What ``train_on`` may be: a name, factors by part, or a list of these that hold together.
TrainOn = str | Mapping[str, float] | Sequence[str | Mapping[str, float]]

_NAMES = ("message", "sampled", "calls", "no_reasoning")
_PARTS = ("header", "content", "reasoning", "call", "result", "end")


class Selector(NamedTuple):
    """A reading of ``train_on``."""

    sampled: bool = False
    calls: bool = False
    factors: tuple[tuple[str, float], ...] = ()

    def weigh(
        self, messages: Sequence[Message], runs: Iterable[tuple[int, int | None, bool, Part | None]]
    ) -> list[float]:
        """Factors on the loss of the tokens of each run."""
        of = [0.0 if m.masked else 1.0 if m.weight is None else float(m.weight) for m in messages]
        factors: dict[str | None, float] = dict(self.factors)
        weights = []
        for _, index, sampled, part in runs:
            if index is None or (self.sampled and not sampled) or (self.calls and not _calls(messages[index], part)):
                weights.append(0.0)
            else:
                weights.append(of[index] * factors.get(part, 1.0))
        return weights


def _calls(message: Message, part: Part | None) -> bool:
    """Whether a part of a message is a call, or the end of a turn that makes one."""
    return part == "call" or (part == "end" and bool(message.tool_calls or message.ipython))


def read_selector(train_on: TrainOn, where: str = "train_on") -> Selector:
    """Reads ``train_on``, which errors call ``where``.

    It is "message" (all of a message, its header included), "sampled" (only what the model emits), "calls" (only calls, and
    the end of a turn that makes one) or "no_reasoning" (no thoughts); factors on the loss by part, such as
    ``{"call": 2.0}``; or a list of these, all of which hold.
    """
    return _read((train_on,) if isinstance(train_on, str) else _frozen(train_on, where), where)


def _frozen(train_on: Any, where: str) -> tuple[Any, ...]:
    """The items, hashable, so that each is read once."""
    if isinstance(train_on, (str, Mapping)):
        train_on = [train_on]
    if not isinstance(train_on, Sequence) or not train_on:
        raise ValueError(
            f"{where} must be one of {', '.join(_NAMES)}, factors by part, or a list of these; found {train_on!r}."
        )
    return tuple(tuple(item.items()) if isinstance(item, Mapping) else item for item in train_on)


@lru_cache
def _read(items: tuple[Any, ...], where: str) -> Selector:
    names = [item for item in items if isinstance(item, str)]
    factors = [pair for item in items if isinstance(item, tuple) for pair in item]
    for name in names:
        if name not in _NAMES:
            raise ValueError(f"{where} must be one of {', '.join(_NAMES)}; found {name!r}.")
    for part, factor in factors:
        if part not in _PARTS:
            raise ValueError(f"{where}: a factor is for one of {', '.join(_PARTS)}; found {part!r}.")
        good = isinstance(factor, (int, float)) and not isinstance(factor, bool) and math.isfinite(factor)
        if not good or factor < 0:
            raise ValueError(f"{where}: the factor for {part!r} must be a number of 0 or more; found {factor!r}.")
    if len(names) + sum(isinstance(item, tuple) for item in items) != len(items):
        raise ValueError(f"{where} holds names and factors by part; found {items!r}.")
    if "no_reasoning" in names:
        factors.append(("reasoning", 0.0))
    by_part: dict[str, float] = {}
    for part, factor in factors:
        by_part[part] = by_part.get(part, 1.0) * factor
    return Selector("sampled" in names, "calls" in names, tuple(by_part.items()))
