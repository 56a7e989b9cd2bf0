"""Reading the messages of a row, in OpenAI or ShareGPT form. Pure: the standard library only.

A turn is what a message says, as keyword arguments of :class:`torchtune.data.Message`: ``role``, ``content`` (text or
parts), and where there are any ``tool_calls`` (as dicts), ``tool_call_id``, ``name``, ``reasoning_content``, ``weight``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from torchtune.data._json_values import check_writable, may_be_unwritable, read_literal
from torchtune.data._speakers import (
    CALL_PARTS,
    CALL_ROLES,
    ROLES,
    SAID_KEYS,
    found,
    payload,
    read_part_call,
    speaker_of,
    stated_calls,
)
from torchtune.data._tool_calls import read_call, read_calls, read_id, read_json

_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_TEXT_KEYS = ("text", "content", "value", "refusal")
_REASONING_PARTS = ("reasoning", "thinking")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
#: Keys under which a message may say something that no format here writes.
_UNREAD_KEYS = ("audio", "tool_call")
#: Keys of messages that say no more than who calls or says what.
_BARE_KEYS = frozenset(("role", "content", "tool_calls", "tool_call_id", "from", "value"))
_IMAGE_PARTS = ("image", "image_url", "input_image")
_IMAGE_KEYS = ("image_url", "image", "content", "url", "path", "value")
_HERMES_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_HERMES_RESULT = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)


def read_turns(messages: Any, *, column: str = "messages", parse_text_calls: bool = False) -> list[dict[str, Any]]:
    """The turns of a conversation, in order, nothing left out."""
    turns, _, errors = collect_turns(messages, column=column, parse_text_calls=parse_text_calls)
    if errors:
        raise errors[0][1]
    return [turn for turn in turns if turn is not None]


class Place(NamedTuple):
    """Where a turn stands in the row: the index of its message, and for each of its calls that of the call's message."""

    message: int
    calls: list[int]


def collect_turns(
    messages: Any, *, column: str = "messages", parse_text_calls: bool = False, unread: Collection[int] = ()
) -> tuple[list[dict[str, Any] | None], list[Place], list[tuple[int, ValueError]]]:
    """The turns of a conversation as :func:`read_turns` gives them, where they stand, and all that cannot be read."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ValueError(f"Column {column!r} must be a list of messages, but found {found(messages)}")
    if messages and all(isinstance(item, (list, tuple)) for item in messages):
        messages = [message for item in messages for message in item]
    turns: list[dict[str, Any] | None] = []
    places: list[Place] = []
    errors: list[tuple[int, ValueError]] = []
    joinable, of_column, suspect = False, f" of column {column!r}", may_be_unwritable(messages)
    for index, message in enumerate(messages):
        read: list[dict[str, Any]] = []
        is_call = False
        if index not in unread:
            try:
                where = f"message {index}{of_column}"
                read, is_call = _read(message, where, parse_text_calls)
                if suspect:
                    check_writable(read, where)
            except ValueError as error:
                errors.append((index, error))
        before = turns[-1] if turns else None
        if is_call and joinable and before is not None and _joins(before, read[0]):
            before.setdefault("tool_calls", []).extend(read[0]["tool_calls"])
            places[-1].calls.extend(index for _ in read[0]["tool_calls"])
            continue
        for turn in read or (None,):
            turns.append(turn)
            places.append(Place(index, [index] * len(turn["tool_calls"]) if turn and "tool_calls" in turn else []))
        goes_on = is_call or parse_text_calls or bool(read and "tool_calls" not in read[-1])
        joinable = goes_on and bool(read) and read[-1]["role"] == "assistant"
    return turns, places, errors


def _read(message: Any, where: str, parse_text_calls: bool) -> tuple[list[dict[str, Any]], bool]:
    """The turns that one message is, and whether it is a call by its role; with Hermes-style text one turn for each result."""
    if not isinstance(message, (dict, Mapping)):
        raise ValueError(f"{where} must be an object with a role and content, but found {found(message)}")
    speaker = speaker_of(message, where)
    if speaker in CALL_ROLES:
        return [_call_turn(message, where)], True
    turn = _turn(message, ROLES[speaker], where)
    return _hermes(turn, where) if parse_text_calls else [turn], False


def _call_turn(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    calls = read_calls(payload(message, where), where)
    if not calls:
        raise ValueError(f"{where} is a call by its role, but holds none; expected JSON with 'name' and 'arguments'")
    turn: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": calls}
    _add_extras(turn, message, where)
    return turn


def _joins(before: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
    """Whether a call can join the turn before it with nothing said of it lost."""
    return before.get("weight") == call.get("weight") and all(
        call.get(key) in (None, before.get(key)) for key in ("name", "reasoning_content")
    )


def _turn(message: Mapping[str, Any], role: str, where: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": role}
    calls: list[dict[str, Any]] = []
    content = payload(message, where)
    if content is None and role != "assistant" and message.keys().isdisjoint(SAID_KEYS):
        raise ValueError(f"{where} has no 'content' (or 'value'); found keys {sorted(map(str, message))}")
    turn["content"] = content if isinstance(content, str) else _content(content, role, where, turn, calls)
    if "tool_calls" in message or "function_call" in message:
        calls += stated_calls(message, where)
    if calls:
        if role != "assistant":
            raise ValueError(f"{where} has role {role!r} and tool calls; only the assistant makes calls")
        turn["tool_calls"] = calls
    _add_extras(turn, message, where)
    return turn


def _add_extras(turn: dict[str, Any], message: Mapping[str, Any], where: str) -> None:
    """Ids, names, reasoning and weight, where the row has any."""
    if turn["role"] in ("tool", "ipython") and (call_id := read_id(message.get("tool_call_id"))) is not None:
        turn["tool_call_id"] = call_id
    if message.keys() <= _BARE_KEYS and "reasoning_content" not in turn:
        return
    if message.get("name") is not None:
        turn["name"] = str(message["name"])
    for key in _UNREAD_KEYS:
        if message.get(key) is not None:
            raise ValueError(f"{where} has {key!r}, which is not read; expected 'content' or 'tool_calls'")
    places = [turn.get("reasoning_content"), *(message.get(key) for key in _REASONING_KEYS)]
    given = [text for text in places if text is not None]
    if not all(isinstance(text, str) for text in given):
        raise ValueError(f"{where}: reasoning must be text, but found {[type(text).__name__ for text in given]}")
    given = list(dict.fromkeys(given))
    said = [text for text in given if text]
    if len(said) > 1:
        raise ValueError(f"{where} has reasoning in several places that differ; expected it in 'reasoning_content'")
    if given:
        turn["reasoning_content"] = (said or given)[0]
    weight = _weight(message, where)
    if weight is not None:
        turn["weight"] = weight


def _weight(message: Mapping[str, Any], where: str) -> float | None:
    """The weight of a message: ``weight``, or 0 where ``train`` or ``loss`` is false."""
    train, weight = message.get("train"), message.get("weight")
    if train is not None and not isinstance(train, bool):
        raise ValueError(f"{where}: 'train' must be true or false, but found {train!r}")
    if weight is not None:
        good = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not good or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"{where}: 'weight' must be a number of 0 or more, but found {weight!r}")
    masked = train is False or message.get("loss") is False
    return 0.0 if masked else None if weight is None else float(weight)


def _content(
    value: Any, role: str, where: str, turn: dict[str, Any], calls: list[dict[str, Any]]
) -> str | list[dict[str, Any]]:
    """The content of a message as text or parts; reasoning and calls among the parts go to ``turn`` and ``calls``."""
    if value is None:
        return ""
    is_result = role in ("tool", "ipython")
    if isinstance(value, (list, tuple)) and (not is_result or _are_parts(value)):
        return _parts(value, where, turn, calls)
    if is_result:
        return [{"type": "json", "content": value}]
    raise ValueError(f"{where}: content must be text, null or a list of parts, but found {found(value)}")


def _are_parts(value: Sequence[Any]) -> bool:
    """Whether a list is one of typed parts, and no JSON value a tool returned."""
    return bool(value) and all(
        isinstance(part, Mapping)
        and (
            (part.get("type") in _TEXT_PARTS and any(isinstance(part.get(key), str) for key in _TEXT_KEYS))
            or (part.get("type") in _IMAGE_PARTS and any(part.get(key) is not None for key in _IMAGE_KEYS))
            or part.keys() == {"type", "content"}
            and part["type"] == "json"
        )
        for part in value
    )


def _parts(
    value: Sequence[Any], where: str, turn: dict[str, Any], calls: list[dict[str, Any]]
) -> str | list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    reasoning: list[str] = []
    for i, part in enumerate(value):
        here = f"{where}, part {i}"
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise ValueError(f"{here}: a part must be an object with a 'type', but found {found(part)}")
        kind = part["type"]
        if kind in _TEXT_PARTS or kind in _REASONING_PARTS:
            text = _field(part, (kind, *_TEXT_KEYS), here)
            if not isinstance(text, str):
                raise ValueError(f"{here}: expected text, but found {found(text)}")
            if kind in _REASONING_PARTS:
                reasoning.append(text)
            elif not calls:
                parts.append({"type": "text", "content": text})
            elif text.strip():
                raise ValueError(f"{here}: text after a call; formats write text before calls, so move it there")
        elif kind in CALL_PARTS:
            calls.append(read_part_call(part, here))
        elif kind in _IMAGE_PARTS:
            image = _field(part, _IMAGE_KEYS, here)
            if isinstance(image, Mapping):
                image = _field({**image, "type": kind}, ("url", "path"), here)
            parts.append({"type": "image", "content": image})
        elif kind == "json" and "content" in part:
            parts.append({"type": "json", "content": part["content"]})
        else:
            raise ValueError(
                f"{here}: unknown part of type {kind!r}; expected one of "
                f"{[*_TEXT_PARTS, *_REASONING_PARTS, *CALL_PARTS, *_IMAGE_PARTS]}"
            )
    if reasoning:
        turn["reasoning_content"] = "".join(reasoning)
    return parts if parts or not calls and not reasoning else ""


def _field(part: Mapping[str, Any], keys: Sequence[str], where: str) -> Any:
    for key in keys:
        if part.get(key) is not None:
            return part[key]
    raise ValueError(f"{where}: part of type {part['type']!r} has none of {list(dict.fromkeys(keys))}")


def _hermes(turn: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The turns that a turn with Hermes-style text is: calls read, and one turn for each result."""
    text = turn["content"]
    if not isinstance(text, str):
        return [turn]
    if turn["role"] == "assistant":
        content, calls = split_hermes_calls(text, where)
        if not calls:
            return [turn]
        return [{**turn, "content": content, "tool_calls": calls + turn.get("tool_calls", [])}]
    if turn["role"] in ("tool", "ipython"):
        return [{**turn, "content": result} for result in split_hermes_results(text)]
    return [turn]


def split_hermes_calls(text: str, where: str) -> tuple[str, list[dict[str, Any]]]:
    """The text before Hermes-style calls, and the calls: ``text\\n<tool_call>\\n{...}\\n</tool_call>``."""
    first = text.find("<tool_call>")
    if first < 0:
        return text, []
    rest = _HERMES_CALL.sub("", text[first:])
    if rest.strip():
        kind = "a <tool_call> that is not closed" if "<tool_call>" in rest else "text after a call"
        raise ValueError(f"{where}: found {kind}: {rest.strip()[:80]!r}; expected only calls after the first one")
    bodies = _HERMES_CALL.findall(text)
    calls = [read_call(_literal(body.strip(), where), f"{where}, call {i}") for i, body in enumerate(bodies)]
    return text[:first].removesuffix("\n"), calls


def split_hermes_results(text: str) -> list[str]:
    """The results in a Hermes-style ``<tool_response>`` text, verbatim; the text itself where it holds anything else."""
    bodies = _HERMES_RESULT.findall(text)
    return bodies if bodies and not _HERMES_RESULT.sub("", text).strip() else [text]


def _literal(text: str, where: str) -> Any:
    """A Hermes call's body: JSON, else a Python literal, else the JSON error."""
    try:
        return read_json(text, where)
    except ValueError:
        try:
            value = read_literal(text, where)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        raise
