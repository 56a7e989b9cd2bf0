"""Who speaks in a message of a row, what is said, and which calls are made. Pure: the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchtune.data._tool_calls import read_call, read_calls

#: What data sets call a speaker, and the role it has here.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "ipython": "ipython",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
#: Speakers whose whole turn is a call, or a list of calls.
CALL_ROLES = ("tool_call", "function_call")
#: Types of content parts that are a call.
CALL_PARTS = ("tool_call", "function_call", "tool_use", "function")


def found(value: Any) -> str:
    """A value as errors show it: its type and how it begins."""
    return f"{type(value).__name__}: {str(value)[:80]!r}"


def speaker_of(message: Mapping[str, Any], where: str) -> str:
    """The speaker of a message, from ``role`` or ShareGPT's ``from``: a key of :data:`ROLES` or one of :data:`CALL_ROLES`."""
    speaker = message.get("role")
    if speaker is None:
        speaker = message.get("from")
    if speaker is None:
        raise ValueError(f"{where} has no 'role' (or 'from'); found keys {sorted(map(str, message))}")
    if not isinstance(speaker, str) or (speaker not in ROLES and speaker not in CALL_ROLES):
        raise ValueError(f"{where} has unknown role {speaker!r}; expected one of {[*ROLES, *CALL_ROLES]}")
    return speaker


#: Keys under which a message says something: OpenAI's, ShareGPT's, and a refusal's.
SAID_KEYS = ("content", "value", "refusal")


def payload(message: Mapping[str, Any], where: str) -> Any:
    """What a message says under one of :data:`SAID_KEYS`; None where all are null."""
    content, value, refusal = map(message.get, SAID_KEYS)
    if value is None and refusal is None:
        return content
    said = {key: message[key] for key in SAID_KEYS if message.get(key) not in (None, "")}
    first = next(iter(said.values()), "")
    if any(other != first for other in said.values()):
        raise ValueError(f"{where} has different content under {list(said)}; expected it under one of them")
    return first


def stated_calls(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The calls that a message has under ``tool_calls``, or under the older ``function_call``."""
    calls = read_calls(message.get("tool_calls"), where)
    if message.get("function_call") is None:
        return calls
    older = read_calls(message["function_call"], where)
    if calls and older and [(c["name"], c["arguments"]) for c in calls] != [(c["name"], c["arguments"]) for c in older]:
        raise ValueError(f"{where} has different calls under 'tool_calls' and 'function_call'; expected one of the two")
    return calls or older


def read_part_call(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The call that a content part of a type in :data:`CALL_PARTS` is."""
    kind = part["type"]
    body = next((part[key] for key in ("value", "content", kind) if part.get(key) is not None), part)
    return read_call(part if kind == "function" else body, where)
