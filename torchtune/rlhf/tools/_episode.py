"""Conversations that a model has with tools, and their tokens: what was sampled is kept as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torchtune.data import Message, ToolCall
from torchtune.data._message import TOOL_ROLES
from torchtune.rlhf.tools._toolbox import Toolbox, ToolResult

if TYPE_CHECKING:
    from torchtune.data.formats import ParsedMessage

#: Continues contexts: ids in, the sampled ids out, the stop token included where there is one.
Sampler = Callable[[list[list[int]]], list[list[int]]]


@dataclass
class CallRecord:
    """A call that the model made, and what came of it; ``result`` is None where it was not run.

    Args:
        call: the call.
        result: what came of it.
    """

    call: ToolCall
    result: ToolResult | None = None


@dataclass
class Episode:
    """One conversation of the model: its tokens, its calls, how it ended. Reward functions get it whole.

    Args:
        row: the row of the dataset.
        prompt: ids that it began with.
        messages: the conversation; None where the prompt is plain text.
        tools: schemas of the tools.
        ids: all ids after the prompt.
        sampled: for each of these, whether the model sampled it; results of tools it did not.
        turns: the ids of each turn of the model, as sampled.
        calls: the model's calls, in order.
        text: the last turn, without calls and reasoning; plain text as it is.
        parsed: the last turn, read back.
        ended: "answer", "length" (out of tokens), "max_tool_calls", "unparsed" (a call that could not be read) or "lost" (its
            environment was); None while it goes on.
        environment_reward: what the environment's ``reward()`` said.
        number: of the row in the data.
    """

    row: Mapping[str, Any]
    prompt: list[int]
    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    turns: list[list[int]] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)
    text: str = ""
    parsed: ParsedMessage | None = None
    ended: str | None = None
    environment_reward: float | None = None
    number: int | None = None

    @property
    def context(self) -> list[int]:
        """Everything so far, as the model sees it."""
        return self.prompt + self.ids

    def add(self, ids: Sequence[int], sampled: bool) -> None:
        """Appends ids; those that were sampled are a turn.

        Args:
            ids: ids that follow those of the conversation so far.
            sampled: whether the model made them.
        """
        self.ids += ids
        self.sampled += [sampled] * len(ids)
        if sampled:
            self.turns.append(list(ids))
        self.check()

    def check(self) -> None:
        """Holds that what counts as sampled is, id for id, what was sampled.

        Raises:
            RuntimeError: if it is not.
        """
        counted = [token for token, sampled in zip(self.ids, self.sampled, strict=True) if sampled]
        if counted != [token for turn in self.turns for token in turn]:
            raise RuntimeError(
                f"The ids that would be trained are not those that were sampled: {counted}, {self.turns}"
            )


def collect(
    episodes: Sequence[Episode],
    tokenizer: Any,
    sample: Sampler,
    *,
    stop_tokens: Sequence[int],
    toolbox: Toolbox | None = None,
    max_tool_calls: int = 8,
    max_tokens: int | None = None,
    anywhere: Callable[[bool], bool] = bool,
) -> None:
    """Lets a model go on with all conversations at once, turn by turn, until each has ended; their calls run together.

    Args:
        episodes: new conversations, changed in place.
        tokenizer: the model tokenizer.
        sample: continues contexts.
        stop_tokens: ids that end a turn.
        toolbox: the tools; without, every conversation ends with its first turn.
        max_tool_calls: a conversation ends with the turn that would make more calls; these are not run.
        max_tokens: a conversation ends when its tokens, the prompt included, leave no room below this.
        anywhere: whether this is true on any rank; ranks with a sharded model sample equally often.

    Raises:
        RuntimeError: if the environment can't begin a conversation.
    """
    stops = set(stop_tokens)
    keys: dict[int, Hashable] = {id(episode): number for number, episode in enumerate(episodes)}
    if toolbox is not None:
        starts = toolbox.reset({keys[id(episode)]: episode.row for episode in episodes})
        for episode in episodes:
            if (start := starts.get(keys[id(episode)])) is not None and start.outcome != "ok":
                raise RuntimeError(f"The environment's reset failed: {start.text}")
    while True:
        active = [episode for episode in episodes if episode.ended is None]
        if not anywhere(bool(active)):
            break
        wanting = []
        for episode, ids in zip(active, sample([episode.context for episode in active]), strict=True):
            episode.add(ids, sampled=True)
            _read_turn(episode, tokenizer, complete=bool(ids) and ids[-1] in stops)
            if episode.ended is None and episode.parsed is not None:
                episode.calls += [CallRecord(call) for call in episode.parsed.tool_calls]
                if toolbox is None:
                    episode.ended = "answer"
                elif len(episode.calls) > max_tool_calls:
                    episode.ended = "max_tool_calls"
                else:
                    wanting.append(episode)
        if toolbox is not None and wanting:
            _run_calls(wanting, toolbox, keys)
            for episode in wanting:
                _append_results(episode, tokenizer, max_tokens, toolbox.stateful)
    if toolbox is not None and toolbox.has_reward:
        scores = toolbox.rewards(list(keys.values()))
        for episode in episodes:
            score = scores[keys[id(episode)]]
            episode.environment_reward = score.value if score.outcome == "ok" else 0.0
    if toolbox is not None:
        toolbox.end(list(keys.values()))


def _read_turn(episode: Episode, tokenizer: Any, complete: bool) -> None:
    """Reads what the model just wrote, and says whether the conversation is over."""
    ids = episode.turns[-1]
    if episode.messages is None:
        episode.text = tokenizer.decode(ids[:-1] if complete else ids)
        episode.ended = "answer" if complete else "length"
        return
    parsed = episode.parsed = tokenizer.parse_tokens(ids, tools=episode.tools)
    episode.text = parsed.content
    episode.messages.append(
        Message(
            "assistant",
            parsed.content,
            ipython=bool(parsed.tool_calls),
            eot=not parsed.tool_calls,
            tool_calls=parsed.tool_calls or None,
            reasoning_content=parsed.reasoning_content,
        )
    )
    if not complete:
        episode.ended = "length"
    elif parsed.unparsed:
        episode.ended = "unparsed"
    elif not parsed.tool_calls:
        episode.ended = "answer"


def _run_calls(episodes: Sequence[Episode], toolbox: Toolbox, keys: Mapping[int, Hashable]) -> None:
    """Runs the calls of the last turns, all at once."""
    made = ((keys[id(episode)], n, record) for episode in episodes for n, record in enumerate(episode.calls))
    records = {(key, n): record for key, n, record in made if record.result is None}
    calls = {key: record.call for key, record in records.items()}
    requests: Any = {key: (key[0], call.name, call.arguments) for key, call in calls.items()}
    for key, result in toolbox.call(requests).items():
        records[key].result = result  # type: ignore[index]


def _append_results(episode: Episode, tokenizer: Any, max_tokens: int | None, stateful: bool) -> None:
    """Appends the results of the last turn's calls, as the format writes them, and the prompt for the next turn."""
    assert episode.messages is not None
    turn = len(episode.messages) - 1
    made = len(episode.messages[turn].tool_calls or [])
    for record in episode.calls[-made:]:
        assert record.result is not None
        value = record.result.value
        content = value if isinstance(value, str) else [{"type": "json", "content": value}]
        call = record.call
        episode.messages.append(Message("tool", content, masked=True, eot=False, tool_call_id=call.id, name=call.name))
    try:
        ids = tokens_after(tokenizer, episode.messages, turn, episode.tools)
    except ValueError:
        # The model may call what no format would write. Only what follows the turn is needed, and the turn itself is kept as ids.
        ids = tokens_after(tokenizer, [_writable(message) for message in episode.messages], turn, episode.tools)
    if max_tokens is not None and len(episode.context) + len(ids) >= max_tokens:
        episode.ended = "length"
        return
    episode.add(ids, sampled=False)
    ended = {record.result.outcome for record in episode.calls[-made:] if record.result} & {"timeout", "lost"}
    if stateful and ended:
        episode.ended = "lost"


def _writable(message: Message) -> Message:
    """A message with calls that every format writes, in the place of those that a model made up."""
    if message.role == "assistant" and message.tool_calls:
        calls = [ToolCall(_writable_name(call.name), {}, call.id) for call in message.tool_calls]
        return Message("assistant", message.content, ipython=True, eot=False, tool_calls=calls)
    if message.role in TOOL_ROLES and message.name:
        name = _writable_name(message.name)
        return Message("tool", message.content, masked=True, eot=False, tool_call_id=message.tool_call_id, name=name)
    return message


def _writable_name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w.-]{0,63}", name, re.ASCII) else "unknown"


def tokens_after(
    tokenizer: Any, messages: Sequence[Message], turn: int, tools: list[dict[str, Any]] | None = None
) -> list[int]:
    """The ids that follow an assistant turn's end token, the prompt for the model's next turn included.

    Args:
        tokenizer: a model tokenizer.
        messages: the conversation, with what came after the turn.
        turn: index of the assistant message.
        tools: schemas of the tools.

    Raises:
        ValueError: if the format writes nothing of the turn that a model samples.
    """
    chat = tokenizer._encode_segments(tokenizer._render(list(messages), tools, True))
    owners = zip(chat.message_index, chat.sampled, strict=True)
    ends = [i for i, (owner, sampled) in enumerate(owners) if sampled and owner == turn]
    if not ends:
        raise ValueError(
            f"The chat format writes nothing that the model samples of message {turn} ({messages[turn].role}); it cannot be "
            "used for conversations with tools in the loop"
        )
    return chat.tokens[ends[-1] + 1 :]
