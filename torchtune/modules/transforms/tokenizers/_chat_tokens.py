"""Tokens of a conversation that know whose they are, and where a conversation that is too long may be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from torchtune.data._selectors import TrainOn, read_selector

if TYPE_CHECKING:
    from torchtune.data._message import Message
    from torchtune.data.formats._base import Part

#: Whose some tokens are: the index of their message, whether the model emits them, and what of the message they are.
Owner = tuple["int | None", bool, "Part | None"]


class Run(NamedTuple):
    """A stretch of tokens with the same owner."""

    length: int
    message_index: int | None
    sampled: bool
    part: Part | None


class ChatTokens:
    """The tokens of a conversation, each with the message it belongs to, whether the model emits it, and what it is.

    ``runs`` say who owns them, in stretches whose lengths add up to theirs; ``cut_off`` is True if messages at the end
    were left out; ``messages`` is what the message indexes refer to.
    """

    def __init__(
        self,
        tokens: list[int] | None = None,
        runs: list[Run] | None = None,
        cut_off: bool = False,
        messages: Sequence[Message] = (),
    ) -> None:
        self.tokens = [] if tokens is None else tokens
        self.runs = [] if runs is None else runs
        self.cut_off = cut_off
        self.messages = messages
        #: True once :meth:`truncate` has left out tokens.
        self.shortened = False

    @classmethod
    def of(cls, placed: Iterable[tuple[Owner, Sequence[int]]]) -> ChatTokens:
        """Ids with their owners, in order; neighbours of the same owner make one run."""
        tokens: list[int] = []
        runs: list[Run] = []
        last: Owner | None = None
        start = 0
        for owner, ids in chain(placed, [(None, ())]):
            if owner != last:
                if last is not None and len(tokens) > start:
                    runs.append(tuple.__new__(Run, (len(tokens) - start, *last)))
                last, start = owner, len(tokens)
            tokens += ids
        return cls(tokens, runs)

    def __len__(self) -> int:
        return len(self.tokens)

    def fill(self, messages: Sequence[Message], max_seq_len: int | None) -> Iterator[tuple[int, Message]]:
        """The messages, with their indexes, to add one by one; none more once there are ``max_seq_len`` tokens."""
        for index, message in enumerate(messages):
            yield index, message
            if max_seq_len is not None and len(self) >= max_seq_len:
                self.cut_off = index < len(messages) - 1
                return

    def add(self, ids: Sequence[int], message_index: int | None, sampled: bool, part: Part | None) -> None:
        """Appends ids of one owner."""
        if ids:
            self.tokens += ids
            self.runs.append(Run(len(ids), message_index, sampled, part))

    @property
    def message_index(self) -> list[int | None]:
        """For each token, the index of its message; None for what no message owns."""
        return self._spread([run.message_index for run in self.runs])

    @property
    def sampled(self) -> list[bool]:
        """For each token, whether the model itself emits it."""
        return self._spread([run.sampled for run in self.runs])

    @property
    def part(self) -> list[Part | None]:
        """For each token, what of its message it is."""
        return self._spread([run.part for run in self.runs])

    def weights(self, train_on: TrainOn = "message") -> list[float]:
        """For each token, the factor on its loss: 0 where it is not trained, 1 where nothing says otherwise.

        ``train_on`` says what counts (:func:`~torchtune.data._selectors.read_selector`); messages that are masked, or
        have weight 0, never do.
        """
        return self._spread(self._weigh(train_on))

    def mask(self, train_on: TrainOn = "message") -> list[bool]:
        """For each token, True where it is not trained; see :meth:`weights`."""
        return self.mask_and_weights(train_on)[0]

    def mask_and_weights(self, train_on: TrainOn = "message") -> tuple[list[bool], list[float] | None]:
        """The :meth:`mask`; and the :meth:`weights`, or None where all of them are 0 or 1, so that the mask says it all."""
        weights = self._weigh(train_on)
        more = None if {0, 1}.issuperset(weights) else self._spread(weights)
        return self._spread([weight == 0 for weight in weights], True), more

    def _weigh(self, train_on: TrainOn) -> list[float]:
        """For each run, the factor on the loss of its tokens."""
        return read_selector(train_on).weigh(self.messages, self.runs)

    def truncate(
        self, max_seq_len: int, side: str, end_id: int | None = None, end_owner: int | None = None
    ) -> ChatTokens:
        """These tokens cut to a length at the ``side`` "right" or "left", where they are longer or messages miss.

        Where something was cut, the last token becomes ``end_id``, which belongs to the message ``end_owner``; None leaves it.
        """
        if len(self) <= max_seq_len and not self.cut_off:
            return self
        drop = max(len(self) - max_seq_len, 0)
        cut = self.cut(0, max_seq_len) if side == "right" else self.cut(drop, len(self))
        if end_id is not None and cut.tokens and cut.tokens[-1] != end_id:
            cut = cut.cut(0, len(cut) - 1)
            cut.add([end_id], end_owner, False, "end")
        elif end_id is not None and cut.tokens:
            cut.runs[-1:] = [cut.runs[-1]._replace(length=cut.runs[-1].length - 1), Run(1, end_owner, False, "end")]
        cut.shortened = True
        return cut

    def cut(self, start: int, stop: int) -> ChatTokens:
        """The tokens from ``start`` up to ``stop``."""
        runs, at = [], 0
        for run in self.runs:
            length = min(at + run.length, stop) - max(at, start)
            if length > 0:
                runs.append(run._replace(length=length))
            at += run.length
        return ChatTokens(self.tokens[start:stop], runs, self.cut_off, self.messages)

    def change_runs(self, change: Callable[[Run], Run]) -> ChatTokens:
        """The same tokens with other owners."""
        return ChatTokens(self.tokens, [change(run) for run in self.runs], self.cut_off, self.messages)

    def with_messages(self, indexes: Sequence[int]) -> ChatTokens:
        """The same tokens, where message ``i`` is number ``indexes[i]`` of the whole conversation."""

        def move(run: Run) -> Run:
            return run if run.message_index is None else run._replace(message_index=indexes[run.message_index])

        return self.change_runs(move)

    def _spread(self, values: Iterable[Any], common: Any = None) -> list[Any]:
        """The values of the runs, for each of their tokens; fastest where most are the ``common`` one."""
        spread, stop = [common] * len(self.tokens), 0
        for value, run in zip(values, self.runs, strict=True):
            start, stop = stop, stop + run[0]
            if value != common:
                spread[start:stop] = [value] * run[0]
        return spread


def right_cuts(messages: Sequence[Message]) -> list[list[int]]:
    """Indexes of the messages that are kept when turns at the end are dropped, longest first."""
    ends = [i + 1 for i, message in enumerate(messages[:-1]) if message.role == "assistant"]
    return [list(range(end)) for end in reversed(ends) if any(map(is_trained, messages[:end]))]


def left_cuts(messages: Sequence[Message]) -> list[list[int]]:
    """Indexes of the messages that are kept when turns at the start are dropped, longest first."""
    system = [0] if messages[0].role == "system" else []
    starts = [i for i, message in enumerate(messages) if message.role == "user" and i > len(system)]
    return [[*system, *range(start, len(messages))] for start in starts if any(map(is_trained, messages[start:]))]


def is_trained(message: Message) -> bool:
    return message.role == "assistant" and not message.masked and message.weight != 0


def cut_short(chat: ChatTokens, max_seq_len: int) -> tuple[ChatTokens, bool]:
    """Cuts the end off. A call that is not whole any more belongs to nobody then, so it is not trained; True if there is one."""
    cut = chat.cut(0, max_seq_len)
    torn = cut.runs[-1].message_index if cut.runs else None

    def length_of_call(runs: list[Run]) -> int:
        return sum(run.length for run in runs if run.part == "call" and run.message_index == torn)

    if length_of_call(cut.runs) == length_of_call(chat.runs):
        return cut, False
    whole = cut.change_runs(
        lambda run: run._replace(message_index=None) if run.part == "call" and run.message_index == torn else run
    )
    return whole, True
