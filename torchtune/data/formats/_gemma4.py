"""Gemma 4: tools, calls and results in a notation of its own, in which the model's turn goes on after a result.

Source: the ``chat_template`` of the models' ``tokenizer_config.json``.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, ClassVar

from torchtune.data._message import ToolCall

from ._base import ChatFormat, Option, ParsedMessage
from ._qwen import write_thought
from ._read import BadCall, Draft, Source, read_marked_calls, read_thinking
from ._write import NO_VALUE, Chat, Turn, Writer

_QUOTE = '<|"|>'
_CALL, _CALL_END, _RESPONSE = "<|tool_call>", "<tool_call|>", "<|tool_response>"
_THOUGHT, _THOUGHT_END = "<|channel>thought\n", "\n<channel|>"
_SCHEMA_KEYS = ("description", "type", "properties", "required", "nullable")
_HEAD = re.compile(r"call:([^{]+)\{")
_PLAIN = re.compile(r"true|false|null|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}


class Gemma4(ChatFormat):
    """Gemma 4.

    The template puts the text beside a call behind its results, where the model never writes it; that text is not sampled.
    """

    name = "gemma4"
    stop = ("<turn|>", _RESPONSE, "<eos>")
    controls = (
        *(
            "<bos>",
            "<eos>",
            "<|turn>",
            "<turn|>",
            "<|think|>",
            "<|channel>",
            "<channel|>",
            _QUOTE,
            "<|tool>",
            "<tool|>",
        ),
        *(_CALL, _CALL_END, _RESPONSE, "<tool_response|>", "<|image|>"),
    )
    options: ClassVar[dict[str, Option]] = {
        "enable_thinking": Option(False, bool, "True asks the model, in the system turn, to think.")
    }
    rewrites_history = True
    writes_reasoning = True
    image_token = "<|image|>"
    check_calls = True

    def write(self, w: Writer, chat: Chat) -> None:
        system, turns = chat.split_system()
        names = chat.call_names()
        offset = len(chat.turns) - len(turns)
        w.lit("<bos>")
        self._write_system(w, chat, system)
        previous = ""
        for at, turn in enumerate(turns):
            if turn.role == "tool":
                if not self._answers(turns, at):
                    raise self.refuse(
                        turn, "found a tool result without a call before it", "Remove it, or add the call."
                    )
                continue
            if turn.role == "assistant":
                results = self._results(turns, at)
                goes_on = at + len(results) + 1 < len(turns) and turns[at + len(results) + 1].role == "assistant"
                w.turn(turn)
                w.lit("<|turn>model\n" if previous != "assistant" else "", "header")
                after_tool = at > 0 and turns[at - 1].role == "tool"
                latest = offset + at > chat.last("user")
                self._write_answer(w, chat, turn, latest, after_tool)
                for number, result in enumerate(results):
                    self._write_result(w, result, names.get(offset + at + 1 + number, "unknown"))
                self._end_answer(w, turn, bool(results), goes_on)
            else:
                w.turn(turn)
                w.lit(f"<|turn>{turn.role}\n", "header")
                w.content(turn.stripped())
                w.end("<turn|>", "\n")
            previous = turn.role

    def _answers(self, turns: list[Turn], at: int) -> bool:
        while at >= 0 and turns[at].role == "tool":
            at -= 1
        return at >= 0 and bool(turns[at].calls)

    def _results(self, turns: list[Turn], at: int) -> list[Turn]:
        """The tool results that follow the turn at this place."""
        end = at + 1
        while end < len(turns) and turns[end].role == "tool":
            end += 1
        return turns[at + 1 : end]

    def _write_system(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        if system is None and not chat.tools and not chat.options.enable_thinking:
            return
        w.turn(system)
        w.lit("<|turn>system\n", "header" if system else None)
        w.lit("<|think|>\n" if chat.options.enable_thinking else "")
        if system is not None:
            w.content(system.stripped())
        for function in chat.functions:
            w.lit("<|tool>")
            _write_declaration(w, function)
            w.lit("<tool|>")
        w.lit("<turn|>", "end" if system else None)
        w.lit("\n")

    def _write_answer(self, w: Writer, chat: Chat, turn: Turn, latest: bool, after_tool: bool) -> None:
        """Thought and calls, or text; the text beside calls waits for the results."""
        w.sampled = True
        if turn.reasoning and latest:
            given = _THOUGHT if after_tool and chat.options.enable_thinking else ""
            write_thought(w, turn.reasoning, given, _THOUGHT, _THOUGHT_END)
        for call in turn.calls:
            w.lit(_CALL, "call")
            w.text(f"call:{call.name}", "call")
            _write_object(w, call.arguments, "call")
            w.lit(_CALL_END, "call")

    def _end_answer(self, w: Writer, turn: Turn, has_results: bool, goes_on: bool) -> None:
        w.turn(turn)
        w.sampled = not turn.calls
        pieces = turn.stripped()
        w.content(pieces)
        if turn.calls and not has_results:
            w.sampled = False
            w.lit(_RESPONSE, "end")
        elif (pieces or not has_results) and not goes_on:
            w.end("<turn|>", "\n")

    def _write_result(self, w: Writer, turn: Turn, name: str) -> None:
        w.turn(turn)
        w.lit(_RESPONSE, "header")
        w.text(f"response:{name}", "result")
        value = turn.text if turn.value is NO_VALUE else turn.value
        _write_object(w, value if isinstance(value, dict) else {"value": value}, "result")
        w.lit("<tool_response|>", "header")

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        last = chat.turns[-1] if chat.turns else None
        if last is not None and last.role == "tool":
            w.lit(_THOUGHT if chat.options.enable_thinking else "", "reasoning")
        elif last is None or not last.calls:
            w.lit("<|turn>model\n", "header")

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        at = read_thinking(source, draft, "<|channel>", "<channel|>")
        if draft.reasoning:
            draft.reasoning = draft.reasoning.removeprefix("thought\n").removeprefix("thought") or None
        read_marked_calls(source, at, draft, _CALL, _CALL_END, _read_call)
        if draft.calls and not draft.unparsed and not draft.texts[-1]:
            # The result that follows a call is no part of the turn, so that the closed call itself is its end.
            source.complete = True
        return draft.done(source)


def _sorted(value: dict[str, Any]) -> list[tuple[str, Any]]:
    """Items by key, regardless of case, as a template's ``dictsort`` gives them."""
    return sorted(value.items(), key=lambda item: str(item[0]).lower())


class _Shown(dict[str, Any]):
    """An object whose keys stand in this order and without quotes."""


_NOTHING = object()


def _write_object(w: Writer, value: dict[str, Any], part: Any, quoted: bool = False) -> None:
    shown = isinstance(value, _Shown)
    w.text("{", part)
    for at, (key, inner) in enumerate(value.items() if shown else _sorted(value)):
        w.text("," * (at > 0), part)
        if inner is _NOTHING:
            continue
        if quoted and not shown:
            _write_value(w, str(key), part)
        else:
            w.text(str(key), part)
        w.text(":", part)
        _write_value(w, inner, part, quoted)
    w.text("}", part)


def _write_value(w: Writer, value: Any, part: Any, quoted: bool = False) -> None:
    """A JSON value; ``quoted`` writes the keys of objects as strings, as the template does inside schemas."""
    if isinstance(value, str):
        w.weave(part, _QUOTE, value, _QUOTE)
    elif isinstance(value, dict):
        _write_object(w, value, part, quoted)
    elif isinstance(value, list):
        w.text("[", part)
        for at, inner in enumerate(value):
            w.text("," * (at > 0), part)
            _write_value(w, inner, part, quoted)
        w.text("]", part)
    else:
        words = {True: "true", False: "false", None: "null"}
        w.text(words[value] if value is None or isinstance(value, bool) else str(value), part)


def _write_declaration(w: Writer, function: dict[str, Any]) -> None:
    """A tool: name, description, and the arguments with upper-case types."""
    shown = _Shown(description=str(function.get("description") or ""))
    if parameters := function.get("parameters"):
        shown["parameters"] = inside = _Shown()
        if parameters.get("properties"):
            inside["properties"] = _properties(parameters["properties"])
        if parameters.get("required"):
            inside["required"] = list(parameters["required"])
        # The template sets a comma before the type even where there is none.
        inside["type"] = str(parameters["type"]).upper() if parameters.get("type") else _NOTHING
    w.text(f"declaration:{function['name']}", None)
    _write_object(w, shown, None, quoted=True)


def _properties(properties: dict[str, Any], skip: tuple[str, ...] = ()) -> _Shown:
    schemas = ((key, value if isinstance(value, dict) else {}) for key, value in _sorted(properties) if key not in skip)
    return _Shown((key, _schema(value)) for key, value in schemas)


def _schema(schema: dict[str, Any]) -> _Shown:
    """One argument's schema; the type comes last."""
    kind, shown = str(schema.get("type", "")).upper(), _Shown()
    if schema.get("description"):
        shown["description"] = schema["description"]
    if kind == "STRING" and schema.get("enum"):
        shown["enum"] = list(schema["enum"])
    if kind == "ARRAY" and isinstance(schema.get("items"), dict) and schema["items"]:
        shown["items"] = _items(schema["items"])
    if schema.get("nullable"):
        shown["nullable"] = True
    if kind == "OBJECT":
        named = isinstance(schema.get("properties"), dict)
        shown["properties"] = _properties(schema["properties"]) if named else _properties(schema, _SCHEMA_KEYS)
        if schema.get("required"):
            shown["required"] = list(schema["required"])
    shown["type"] = kind
    return shown


def _items(items: dict[str, Any]) -> _Shown:
    """The schema of a list's items, whose keys come sorted."""
    shown = _Shown((key, value) for key, value in _sorted(items) if value is not None)
    if "properties" in shown:
        shown["properties"] = _properties(shown["properties"] if isinstance(shown["properties"], dict) else {})
    if "type" in shown:
        kind = shown["type"]
        shown["type"] = kind.upper() if isinstance(kind, str) else [str(one).upper() for one in kind]
    return shown


def _read_call(source: Source, start: int) -> tuple[list[ToolCall], int]:
    head = _HEAD.match(source.text, start)
    if not head:
        raise BadCall(f"expected call:name{{...}}, found {source.rest(start, start + 30)!r}")
    arguments, at = _read_object(source, head.end() - 1)
    if not source.at(_CALL_END, at):
        raise BadCall(f"expected {_CALL_END} after the arguments, found {source.rest(at, at + 30)!r}")
    return [ToolCall(head[1].strip(), arguments)], at + len(_CALL_END)


def _read_value(source: Source, at: int) -> tuple[Any, int]:
    if source.at(_QUOTE, at):
        start = at + len(_QUOTE)
        end = source.find(_QUOTE, start)
        if end < 0:
            raise BadCall("a text has no closing quote, as in output that was cut off")
        return source.rest(start, end), end + len(_QUOTE)
    if source.text.startswith("{", at):
        return _read_object(source, at)
    if source.text.startswith("[", at):
        values: list[Any] = []
        at += 1
        while not source.text.startswith("]", at):
            value, at = _read_value(source, at)
            values.append(value)
            at = _comma(source, at, "]")
        return values, at + 1
    plain = _PLAIN.match(source.text, at)
    if not plain:
        raise BadCall(f"expected a value, found {source.rest(at, at + 20)!r}")
    word = plain[0]
    if word in _WORDS:
        return _WORDS[word], plain.end()
    return (int(word) if word.lstrip("-").isdigit() else float(word)), plain.end()


def _read_object(source: Source, at: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    at += 1
    while not source.text.startswith("}", at):
        colon = source.text.find(":", at)
        if colon < 0:
            raise BadCall("an object is not closed, as in output that was cut off")
        key = source.rest(at, colon)
        values[key], at = _read_value(source, colon + 1)
        at = _comma(source, at, "}")
    return values, at + 1


def _comma(source: Source, at: int, closing: str) -> int:
    """Skips a comma; anything but that or the closing bracket is an error."""
    if source.text.startswith(",", at):
        return at + 1
    if not source.text.startswith(closing, at):
        raise BadCall(f"expected ',' or {closing!r}, found {source.rest(at, at + 20)!r}")
    return at
