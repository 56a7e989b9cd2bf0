"""LFM 2: ChatML with tools as a JSON list, and calls written as Python.

Source: the ``chat_template`` of the models' ``tokenizer_config.json``.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from torchtune.data._message import ToolCall

from ._base import ChatFormat, ParsedMessage
from ._hermes_style import result_text
from ._qwen import END, START
from ._read import BadCall, Draft, Source, decode_json, read_marked_calls
from ._write import Chat, Turn, Writer, dumps

_CALLS, _CALLS_END = "<|tool_call_start|>", "<|tool_call_end|>"
_NAME = re.compile(r"\s*([^\s(),\[\]=]+)\s*\(\s*")
_KEY = re.compile(r"\s*([^\s(),=]+)\s*=\s*")
_WORD = re.compile(r"True|False|None|true|false|null")
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class Lfm2(ChatFormat):
    """LFM 2."""

    name = "lfm2"
    stop = (END, "<|endoftext|>")
    controls = (
        *("<|startoftext|>", "<|endoftext|>", START, END, "<|tool_list_start|>", "<|tool_list_end|>"),
        *(_CALLS, _CALLS_END, "<|tool_response_start|>", "<|tool_response_end|>"),
    )
    check_calls = True
    prompt = f"{START}assistant\n"

    def write(self, w: Writer, chat: Chat) -> None:
        system, turns = chat.split_system()
        w.lit("<|startoftext|>")
        if (system is not None and system.text) or chat.tools:
            w.turn(system)
            w.lit(f"{START}system\n", "header" if system else None)
            if system is not None and system.text:
                w.content(system.pieces)
                w.lit("\n" if chat.tools else "")
            if chat.tools:
                w.weave(None, "List of tools: <|tool_list_start|>", dumps(chat.tools), "<|tool_list_end|>")
            w.lit(END, "end" if system else None)
            w.lit("\n")
        for turn in turns:
            w.turn(turn)
            w.lit(f"{START}{turn.role}\n", "header")
            if turn.role == "tool":
                w.weave("result", "<|tool_response_start|>", result_text(turn), "<|tool_response_end|>")
            else:
                w.sampled = turn.role == "assistant"
                w.content(turn.pieces)
                self._write_calls(w, turn)
            w.end(END, "\n")

    def _write_calls(self, w: Writer, turn: Turn) -> None:
        if not turn.calls:
            return
        calls = [f"{c.name}({', '.join(f'{k}={python(v)}' for k, v in c.arguments.items())})" for c in turn.calls]
        w.weave("call", _CALLS, f"[{', '.join(calls)}]", _CALLS_END)

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        read_marked_calls(source, 0, draft, _CALLS, _CALLS_END, _read_section)
        return draft.done(source)


def _read_section(source: Source, start: int) -> tuple[list[ToolCall], int]:
    closed = source.find(_CALLS_END, start)
    if closed < 0:
        return read_python_calls(source.rest(start)), len(source.text)
    return read_python_calls(source.rest(start, closed)), closed + len(_CALLS_END)


def python(value: Any) -> str:
    """An argument as the template writes it: text in single quotes, objects and lists as JSON, the rest as in Python."""
    if isinstance(value, str):
        text = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        return f"'{text}'"
    return dumps(value) if isinstance(value, (dict, list)) else str(value)


def read_python_calls(text: str) -> list[ToolCall]:
    """The calls in ``[f(a='x'), g()]``."""
    at = len(text) - len(text.lstrip())
    if not text.startswith("[", at):
        raise BadCall(f"expected a list of calls, found {text[at : at + 30]!r}")
    at += 1
    calls: list[ToolCall] = []
    while True:
        name = _NAME.match(text, at)
        if not name:
            raise BadCall(f"expected name(...), found {text[at : at + 30]!r}")
        call = ToolCall(name[1])
        at = name.end()
        while not text.startswith(")", at):
            key = _KEY.match(text, at)
            if not key:
                raise BadCall(f"expected an argument as name=value, found {text[at : at + 30]!r}")
            call.arguments[key[1]], at = _read_value(text, key.end())
            at = _next(text, at, ")")
        calls.append(call)
        at = _next(text, at + 1, "]")
        if text.startswith("]", at):
            if text[at + 1 :].strip():
                raise BadCall(f"expected nothing after the calls, found {text[at + 1 :].strip()[:30]!r}")
            return calls


def _next(text: str, at: int, closing: str) -> int:
    """Skips white space and a comma; anything but that or the closing bracket is an error."""
    at += len(text[at:]) - len(text[at:].lstrip())
    if text.startswith(",", at):
        return at + 1 + len(text[at + 1 :]) - len(text[at + 1 :].lstrip())
    if not text.startswith(closing, at):
        raise BadCall(f"expected ',' or {closing!r}, found {text[at : at + 20]!r}")
    return at


def _read_value(text: str, at: int) -> tuple[Any, int]:
    if text[at : at + 1] in ("'", '"'):
        return _read_text(text, at)
    word = _WORD.match(text, at)
    if word:
        return _WORDS[word[0].lower()], word.end()
    return decode_json(text, at)


def _read_text(text: str, at: int) -> tuple[str, int]:
    quote, at, out = text[at], at + 1, []
    while at < len(text) and text[at] != quote:
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
            out.append(_ESCAPES.get(text[at], text[at] if text[at] in "\\'\"" else "\\" + text[at]))
        else:
            out.append(text[at])
        at += 1
    if at >= len(text):
        raise BadCall("a text has no closing quote, as in output that was cut off")
    return "".join(out), at + 1
