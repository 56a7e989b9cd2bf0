"""Whether a conversation is one that can be trained or answered. Pure: the standard library and messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune.data._message import Message

_RESULT_ROLES = ("tool", "ipython")
_ROLES = ("system", "user", "assistant", *_RESULT_ROLES)


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
    least = 1 if inference else 2
    if len(messages) < least:
        raise ValueError(f"Messages must be at least length {least}, but got {len(messages)} messages")
    declared = None if tools is None else [*(_tool_name(tool) for tool in tools), *builtin_tools]
    if assistant_runs is None:
        assistant_runs = bool(tools) or any(_is_call(m) or m.role in _RESULT_ROLES for m in messages)
    run = _CallRun()
    for i, message in enumerate(messages):
        before = messages[i - 1] if i else None
        _check_order(i, message, before, assistant_runs)
        if message.role == "assistant":
            if before is None or before.role != "assistant":
                run = _CallRun()
            run.add_calls(i, message, declared)
        elif message.role in _RESULT_ROLES:
            run.add_result(i, message)


def _tool_name(tool: Mapping[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("name") if isinstance(function, Mapping) else tool.get("name")


def _is_call(message: Message) -> bool:
    return message.role == "assistant" and (message.ipython or bool(getattr(message, "tool_calls", None)))


def _check_order(i: int, message: Message, before: Message | None, assistant_runs: bool) -> None:
    """The rules that need only this message and the one before it."""
    role, found = message.role, "the start" if before is None else f"a message of role {before.role}"
    if role not in _ROLES:
        raise ValueError(f"Unknown role {role!r} at index {i} in messages; expected one of {list(_ROLES)}")
    if role == "system" and i > 0:
        raise ValueError(f"System message at index {i} in messages, but system messages must come first")
    if role == "user" and before is not None and before.role == "user":
        raise ValueError(
            f"Two consecutive user messages at index {i} and {i - 1} in messages; expected an assistant message between"
        )
    if role == "assistant":
        after_assistant = before is not None and before.role == "assistant"
        if before is None or before.role == "system" or (after_assistant and not assistant_runs):
            raise ValueError(
                f"Assistant message before expected user, tool or ipython message at index {i} in messages; it follows "
                f"{found}"
            )
    if role in _RESULT_ROLES and (before is None or not (before.role in _RESULT_ROLES or _is_call(before))):
        raise ValueError(
            f"Tool or ipython message at index {i} must follow an ipython message, that is an assistant message with "
            f"tool calls, or another result; it has role {role} and follows {found}"
        )


@dataclass
class _CallRun:
    """The calls of one run of assistant messages, and the results they have got."""

    ids: list[str | None] = field(default_factory=list)
    has_text_calls: bool = False
    results: int = 0
    answered: set[str] = field(default_factory=set)

    def add_calls(self, i: int, message: Message, declared: Collection[str] | None) -> None:
        """Check the calls of message ``i`` and remember them."""
        calls = getattr(message, "tool_calls", None) or []
        self.has_text_calls = self.has_text_calls or (message.ipython and not calls)
        for k, call in enumerate(calls):
            where = f"Call {k} of the assistant message at index {i} in messages"
            if not isinstance(call.name, str) or not call.name:
                raise ValueError(f"{where} has no name; found {call.name!r}")
            if not isinstance(call.arguments, Mapping):
                raise ValueError(
                    f"{where}, to {call.name!r}, must have an object as its arguments, but found "
                    f"{type(call.arguments).__name__}: {str(call.arguments)[:80]!r}"
                )
            if declared is not None and call.name not in declared:
                raise ValueError(
                    f"{where} is to {call.name!r}, which is not in tools; expected one of {list(declared)}"
                )
            if call.id is not None and call.id in self.ids:
                raise ValueError(f"{where}, to {call.name!r}, repeats the id {call.id!r} of a call beside it")
            self.ids.append(call.id)

    def add_result(self, i: int, message: Message) -> None:
        """Check that the result at ``i`` has a call of this run that it can answer."""
        where = f"the {message.role} message at index {i} in messages"
        self.results += 1
        answers = getattr(message, "tool_call_id", None)
        if answers is not None:
            if answers in self.answered:
                raise ValueError(f"Repeated tool_call_id {answers!r} in {where}; expected one result for each call")
            if self.ids and not self.has_text_calls and answers not in self.ids:
                raise ValueError(
                    f"Unknown tool_call_id {answers!r} in {where}; expected the id of a call before it: {self.ids}"
                )
            self.answered.add(answers)
        if self.ids and not self.has_text_calls and self.results > len(self.ids):
            raise ValueError(
                f"More results than calls: {where} is result {self.results} of {len(self.ids)} calls before it"
            )
