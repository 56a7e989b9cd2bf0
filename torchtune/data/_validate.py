"""Whether a conversation is one that can be trained or answered. Pure: the standard library and messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune.data._messages import Message

_RESULT_ROLES = ("tool", "ipython")
_ROLES = ("system", "user", "assistant", *_RESULT_ROLES)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a conversation: the message (None is all of it), a word for the rule, what was found, and where."""

    index: int | None
    kind: str
    text: str
    field: str = ""  # such as ``role`` or ``tool_calls[0].name``
    call: int | None = None


def validate_messages(
    messages: list[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    inference: bool = False,
    assistant_runs: bool | None = None,
    builtin_tools: Collection[str] = (),
) -> None:
    """Refuse a conversation that no chat could have been.

    A conversation is: at most one system message, first; then turns of a user message, one or more assistant messages,
    calls followed by one or more results, and assistant messages again. Not every call needs a result. A conversation may
    end at any of these, so in a call (which is then the target) or in a result too. An assistant message may be empty.

    Args:
        messages: the conversation.
        tools: the tools the model was given, wrapped or bare; None skips the check of names.
        inference: the conversation is a prompt to be answered, so one message is enough.
        assistant_runs: whether an assistant message may directly follow another. None, the default, allows it where
            the conversation has tools, calls or results, and refuses it in plain ones, as torchtune always has.
        builtin_tools: names that may be called without being in ``tools``, such as ``brave_search`` of Llama 3.1.

    Raises:
        ValueError: names the index and role of the message, what was found, and what was expected.
    """
    for problem in iter_problems(
        messages, tools, inference=inference, assistant_runs=assistant_runs, builtin_tools=builtin_tools
    ):
        raise ValueError(problem.text)


def iter_problems(
    messages: Sequence[Message | None],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    inference: bool = False,
    assistant_runs: bool | None = None,
    builtin_tools: Collection[str] = (),
    place: Callable[[int, int | None], int] = lambda index, call: index,
) -> Iterator[Problem]:
    """All that :func:`validate_messages` refuses in a conversation, each fault once: what only follows from it is not named.

    None among the messages is one that could not be read, and that may have been anything; ``place`` gives the index that a
    message, or a call in it, is named by, where the row counts otherwise.
    """
    least = 1 if inference else 2
    if len(messages) < least:
        text = f"Messages must be at least length {least}, but got {len(messages)} messages"
        yield Problem(None, "too_few_messages", text)
    declared = None if tools is None else [*(_tool_name(tool) for tool in tools), *builtin_tools]
    if assistant_runs is None:
        assistant_runs = bool(tools) or any(m is None or _is_call(m) or m.role in _RESULT_ROLES for m in messages)
    run = _CallRun(place)
    before: Message | None = None
    sure = True
    for i, message in enumerate(messages):
        if message is None:
            before, sure, run = None, False, _CallRun(place, has_text_calls=True)
            continue
        misplaced = _order_problem(i, message, before, assistant_runs, sure, place)
        if misplaced is not None:
            yield misplaced
            if message.role not in ("user", "assistant", *_RESULT_ROLES):
                sure = sure and message.role == "system"
                continue
        if message.role == "assistant":
            if sure and (before is None or before.role != "assistant"):
                run = _CallRun(place)
            yield from run.add_calls(i, message, declared)
        elif message.role in _RESULT_ROLES:
            if misplaced is not None:
                run = _CallRun(place)
            else:
                yield from run.add_result(i, message)
        before, sure = message, True


def _tool_name(tool: Mapping[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("name") if isinstance(function, Mapping) else tool.get("name")


def _is_call(message: Message) -> bool:
    return message.role == "assistant" and (message.ipython or bool(getattr(message, "tool_calls", None)))


def _order_problem(
    i: int,
    message: Message,
    before: Message | None,
    assistant_runs: bool,
    sure: bool,
    place: Callable[[int, int | None], int],
) -> Problem | None:
    """The rules that need only this message and the one before it; ``sure`` is False where that one is not known."""
    role, at = message.role, place(i, None)
    found = "the start" if before is None else f"a message of role {before.role}"
    text = ""
    if role not in _ROLES:
        text = f"Unknown role {role!r} at index {at} in messages; expected one of {list(_ROLES)}"
        return Problem(i, "unknown_role", text, "role")
    if role == "system" and i > 0:
        text = f"System message at index {at} in messages, but system messages must come first"
    elif not sure:
        return None
    elif role == "user" and before is not None and before.role == "user":
        text = (
            f"Two consecutive user messages at index {at} and {place(i - 1, None)} in messages; expected an assistant "
            "message between"
        )
    elif role == "assistant":
        after_assistant = before is not None and before.role == "assistant"
        if before is None or before.role == "system" or (after_assistant and not assistant_runs):
            text = (
                f"Assistant message before expected user, tool or ipython message at index {at} in messages; it follows "
                f"{found}"
            )
    elif role in _RESULT_ROLES and (before is None or not (before.role in _RESULT_ROLES or _is_call(before))):
        text = (
            f"Tool or ipython message at index {at} must follow an ipython message, that is an assistant message with "
            f"tool calls, or another result; it has role {role} and follows {found}"
        )
    return Problem(i, "role_order", text, "role") if text else None


@dataclass
class _CallRun:
    """The calls of one run of assistant messages, and the results they have got."""

    place: Callable[[int, int | None], int]
    ids: list[str | None] = field(default_factory=list)
    has_text_calls: bool = False
    results: int = 0
    answered: set[str] = field(default_factory=set)

    def add_calls(self, i: int, message: Message, declared: Collection[str] | None) -> Iterator[Problem]:
        """What is wrong with the calls of message ``i``, which are remembered."""
        calls = getattr(message, "tool_calls", None) or []
        self.has_text_calls = self.has_text_calls or (message.ipython and not calls)
        for k, call in enumerate(calls):
            where = f"Call {k} of the assistant message at index {self.place(i, k)} in messages"
            at = f"tool_calls[{k}]"
            if not isinstance(call.name, str) or not call.name:
                yield Problem(i, "call_without_name", f"{where} has no name; found {call.name!r}", f"{at}.name", k)
            if not isinstance(call.arguments, Mapping):
                text = (
                    f"{where}, to {call.name!r}, must have an object as its arguments, but found "
                    f"{type(call.arguments).__name__}: {str(call.arguments)[:80]!r}"
                )
                yield Problem(i, "arguments_not_object", text, f"{at}.arguments", k)
            if declared is not None and call.name not in declared:
                text = f"{where} is to {call.name!r}, which is not in tools; expected one of {list(declared)}"
                yield Problem(i, "undeclared_tool", text, f"{at}.name", k)
            if call.id is not None and call.id in self.ids:
                text = f"{where}, to {call.name!r}, repeats the id {call.id!r} of a call beside it"
                yield Problem(i, "repeated_call_id", text, f"{at}.id", k)
            self.ids.append(call.id)

    def add_result(self, i: int, message: Message) -> Iterator[Problem]:
        """What is wrong with the result at ``i``: whether a call of this run is left that it can answer."""
        where = f"the {message.role} message at index {self.place(i, None)} in messages"
        known = bool(self.ids) and not self.has_text_calls
        answers = getattr(message, "tool_call_id", None)
        if answers is not None and answers in self.answered:
            text = f"Repeated tool_call_id {answers!r} in {where}; expected one result for each call"
            yield Problem(i, "repeated_result_id", text, "tool_call_id")
            return
        if answers is not None and known and answers not in self.ids:
            text = f"Unknown tool_call_id {answers!r} in {where}; expected the id of a call before it: {self.ids}"
            yield Problem(i, "unknown_result_id", text, "tool_call_id")
            return
        if answers is not None:
            self.answered.add(answers)
        self.results += 1
        if known and self.results > len(self.ids):
            text = f"More results than calls: {where} is result {self.results} of {len(self.ids)} calls before it"
            yield Problem(i, "extra_result", text)
