"""Tool calls and results of a row, as messages that are plain text.

``Message`` has no field for calls, so they become its text: JSON on one line, always the last line of the message.
One call is ``{"name": ..., "arguments": {...}}``, with ``"id"`` where the row has one; several are a list of these.
Nothing of a call is lost: all above the last line is what the assistant said beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torchtune.data._speakers import CALL_PARTS, CALL_ROLES, ROLES, found, payload, read_part_call, stated_calls
from torchtune.data._tool_calls import read_calls

_RESULT_ROLES = ("tool", "ipython")


def read_tool_turns(messages: Any) -> Any:
    """The messages of a row, their calls and results written as text that the transforms can take.

    OpenAI (``role``, ``content``) and ShareGPT (``from``, ``value``) messages keep their form, and ordinary ones all
    they have. Results get the role ``tool`` or ``ipython``. Content that is null or missing is empty text. A
    ``function_call`` or ``tool_call`` turn joins the assistant's turn before it, so that parallel calls are one
    message. Results that name their calls stand in the order of the calls, since ``Message`` has no ids.

    Args:
        messages (Any): the messages as they stand in the row.

    Returns:
        Any: the messages as dicts, each with ``ipython``: True for an assistant message that is a call, or that a
            result directly follows. What is no list is returned as it is.

    Raises:
        ValueError: if a call cannot be read; names the index of the message.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        return messages
    turns: list[dict[str, Any]] = []
    roles: list[str | None] = []
    calls: list[list[dict[str, Any]]] = []
    joinable = False
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {index} must be an object with a role and content, but found {found(message)}")
        turn, role, made, is_call = _read(message, f"message {index}")
        if is_call and joinable:
            calls[-1].extend(made)
            continue
        turns.append(turn)
        roles.append(role)
        calls.append(made)
        joinable = role == "assistant" and (is_call or not made)
    for i, turn in enumerate(turns):
        if calls[i]:
            _write(turn, calls[i])
        answered = i + 1 < len(roles) and roles[i + 1] in _RESULT_ROLES
        turn["ipython"] = roles[i] == "assistant" and (bool(calls[i]) or answered)
    _order_results(turns, roles, calls)
    return turns


def _keys(message: Mapping[str, Any]) -> tuple[str, str]:
    """Under which keys a message has its speaker and its text."""
    return ("role", "content") if message.get("role") is not None else ("from", "value")


def _read(message: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str | None, list[dict[str, Any]], bool]:
    """A message as a dict, its role (None if not known), its calls, and whether it is a call by its speaker."""
    speaker_key, text_key = _keys(message)
    speaker, content = message.get(speaker_key), payload(message, where)
    turn = {**message, text_key: "" if content is None else content}
    if speaker in CALL_ROLES:
        turn.update({speaker_key: "assistant" if speaker_key == "role" else "gpt", text_key: ""})
        made = read_calls(content, where)
        if not made:
            raise ValueError(f"{where} is a call by its speaker {speaker!r}, but holds none; expected JSON with 'name'")
        return turn, "assistant", made, True
    role = ROLES.get(speaker)
    made = stated_calls(message, where)
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else []
    typed = bool(parts) and all(isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in parts)
    if role in _RESULT_ROLES:
        turn[speaker_key] = role
        if not isinstance(turn[text_key], str) and not (typed and speaker_key == "role"):
            turn[text_key] = _json(content, where)
    elif made or any(typed and part["type"] in CALL_PARTS for part in parts):
        if role != "assistant":
            raise ValueError(f"{where} has role {speaker!r} and tool calls; only the assistant makes calls")
        if not isinstance(turn[text_key], str):
            turn[text_key], in_parts = _split_parts(content, where)
            made = in_parts + made
    return turn, role, made, False


def _split_parts(parts: Any, where: str) -> tuple[str, list[dict[str, Any]]]:
    """The text and the calls of a message whose content is parts."""
    text, made = "", []
    for i, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in CALL_PARTS:
            made.append(read_part_call(part, f"{where}, part {i}"))
        elif kind == "text" and isinstance(part.get("text"), str) and not made:
            text += part["text"]
        else:
            raise ValueError(f"{where}, part {i}: a message with calls takes text, then calls; found {found(part)}")
    return text, made


def _json(value: Any, where: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds a value that JSON cannot: {error}") from error


def _write(turn: dict[str, Any], made: list[dict[str, Any]]) -> None:
    """Put calls into the text of their message."""
    key = _keys(turn)[1]
    shown = [{name: value for name, value in call.items() if name != "id" or value is not None} for call in made]
    text = _json(shown[0] if len(shown) == 1 else shown, f"a call of {made[0]['name']!r}")
    turn[key] = f"{turn[key]}\n{text}" if turn[key] else text


def _order_results(turns: list[dict[str, Any]], roles: list[str | None], calls: list[list[dict[str, Any]]]) -> None:
    """Put results that name calls right before them into the order of these calls, in place."""
    ids: list[Any] = []
    start = 0
    for i in range(len(turns) + 1):
        role = roles[i] if i < len(turns) else None
        if role in _RESULT_ROLES:
            continue
        results = turns[start:i]
        answers = [str(result.get("tool_call_id")) for result in results]
        if len(results) > 1 and set(answers) <= set(ids):
            turns[start:i] = sorted(results, key=lambda result: ids.index(str(result["tool_call_id"])))
        if results or role != "assistant":
            ids = []
        if i < len(turns):
            ids += [call["id"] for call in calls[i]]
        start = i + 1
