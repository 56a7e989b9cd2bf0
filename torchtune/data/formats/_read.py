"""The one reader behind every format: finds control tokens and calls in model output, and never loses what is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torchtune.data._message import ToolCall

from ._parts import ParsedMessage, Segment, UnparsedCall
from ._write import dumps

if TYPE_CHECKING:
    from ._base import ChatFormat

_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"


class BadCall(Exception):
    """Text that was meant as a call and is none; its message is the reason."""


@dataclass
class Source:
    """Model output: one text, and where its control tokens stand."""

    text: str
    marks: dict[int, str] | None = None
    controls: frozenset[str] = frozenset()
    complete: bool = False
    stop: str = ""

    @classmethod
    def of(cls, output: str | Sequence[Segment], fmt: ChatFormat) -> Source:
        """The source for text or segments, cut at the first end token."""
        controls = frozenset(fmt.controls)
        if isinstance(output, str):
            source = cls(output, None, controls)
        else:
            segments = [s for s in output if s.sampled] or list(output)
            marks, at, texts = {}, 0, []
            for segment in segments:
                if segment.special:
                    marks[at] = segment.text
                texts.append(segment.text)
                at += len(segment.text)
            source = cls("".join(texts), marks, controls | frozenset(marks.values()))
        ends = [(at, stop) for stop in fmt.stop if (at := source.find(stop)) >= 0]
        if ends:
            at, source.stop = min(ends)
            source.text, source.complete = source.text[:at], True
        return source

    def find(self, token: str, start: int = 0) -> int:
        """Where ``token`` next stands at or after ``start``, or -1. A control token counts only where it is one."""
        if self.marks is None or token not in self.controls:
            return self.text.find(token, start)
        return min(
            (at for at, text in self.marks.items() if text == token and start <= at < len(self.text)), default=-1
        )

    def first(self, tokens: Sequence[str], start: int = 0) -> tuple[int, str]:
        """Where the first of several tokens stands, and which it is; ``(-1, "")`` if none."""
        found = [(at, token) for token in tokens if (at := self.find(token, start)) >= 0]
        return min(found, key=lambda pair: (pair[0], -len(pair[1]))) if found else (-1, "")

    def at(self, token: str, start: int) -> bool:
        """True if ``token`` stands at ``start``."""
        return self.text.startswith(token, start) and self.find(token, start) == start

    def skip_space(self, start: int) -> int:
        """The next place that is no white space."""
        while start < len(self.text) and self.text[start] in _SPACE:
            start += 1
        return start

    def rest(self, start: int, end: int | None = None) -> str:
        return self.text[start:end]


@dataclass
class Draft:
    """A parsed message in the making."""

    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    unparsed: list[UnparsedCall] = field(default_factory=list)
    reasoning: str | None = None

    def damaged(self, source: Source, start: int, closing: str, error: BadCall) -> int:
        """Notes that the call at ``start`` is none; returns where it ends."""
        closed = source.find(closing, start)
        end = len(source.text) if closed < 0 else closed + len(closing)
        self.unparsed.append(UnparsedCall(source.rest(start, end), str(error)))
        return end

    def done(self, source: Source) -> ParsedMessage:
        return ParsedMessage("".join(self.texts), self.reasoning, self.calls, self.unparsed, source.complete)


def decode_json(text: str, start: int) -> tuple[Any, int]:
    """The JSON value at ``start`` and where it ends. Raises BadCall with the reason if there is none."""
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or "Unterminated" in error.msg:
            raise BadCall("the JSON ends early, as in output that was cut off") from None
        raise BadCall(f"no valid JSON: {error.msg} at character {error.pos - start}") from None
    except RecursionError:
        raise BadCall("the JSON is nested too deeply") from None


def call_from(value: Any, keys: Sequence[str] = ("arguments", "parameters")) -> ToolCall:
    """The call that a JSON object ``{"name": ..., "arguments": {...}}`` stands for; absent arguments are none."""
    if not isinstance(value, dict):
        raise BadCall(f"expected a JSON object, found {type(value).__name__}")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise BadCall(f'expected a "name" that is text, found {name!r}')
    arguments: Any = next((value[key] for key in keys if key in value), {})
    if not isinstance(arguments, dict):
        raise BadCall(f'expected "{keys[0]}" to be an object, found {type(arguments).__name__}')
    identity = value.get("id")
    return ToolCall(name, arguments, identity if isinstance(identity, str) else None)


def read_json_call(source: Source, start: int) -> tuple[ToolCall, int]:
    """The JSON call at ``start``, white space before it allowed, and where it ends."""
    value, end = decode_json(source.text, source.skip_space(start))
    return call_from(value), end


def read_call_list(source: Source, at: int, opening: str, draft: Draft) -> int:
    """Reads the JSON list of calls behind ``opening``, which stands at ``at``; returns where it ends."""
    try:
        values, end = decode_json(source.text, source.skip_space(at + len(opening)))
        if not isinstance(values, list):
            raise BadCall(f"expected a JSON list of calls, found {type(values).__name__}")
    except BadCall as error:
        draft.unparsed.append(UnparsedCall(source.rest(at), str(error)))
        return len(source.text)
    for value in values:
        try:
            draft.calls.append(call_from(value))
        except BadCall as error:
            draft.unparsed.append(UnparsedCall(dumps(value), str(error)))
    return end


def read_thinking(
    source: Source, draft: Draft, opening: str = "<think>", closing: str = "</think>", trim: str = "\n"
) -> int:
    """Takes a block of thinking off the start; returns where the rest begins."""
    start = source.skip_space(0)
    inner = start + len(opening) if source.at(opening, start) else 0
    end = source.find(closing, inner)
    if end < 0:
        if inner == 0:
            return 0
        draft.reasoning = source.rest(inner).strip(trim) or None
        return len(source.text)
    draft.reasoning = source.rest(inner, end).strip(trim) or None
    end += len(closing)
    while trim and source.rest(end, end + 1) == trim:
        end += 1
    return end


def read_tagged_calls(
    source: Source,
    start: int,
    draft: Draft,
    opening: str = "<tool_call>",
    closing: str = "</tool_call>",
    read_call: Callable[[Source, int], tuple[ToolCall, int]] = read_json_call,
    before: str = "\n",
) -> None:
    """Reads content and calls in tags to the end of the text."""
    at = start
    first = True
    while (opened := source.find(opening, at)) >= 0:
        text = source.rest(at, opened)
        if first:
            draft.texts.append(text.removesuffix(before) if before else text)
        elif text.strip():
            draft.texts.append(text)
        first = False
        try:
            call, end = read_call(source, opened + len(opening))
            end = source.skip_space(end)
            if source.at(closing, end):
                end += len(closing)
            elif end < len(source.text) and not source.at(opening, end):
                raise BadCall(f"expected {closing}, found {source.rest(end, end + 30)!r}")
            draft.calls.append(call)
        except BadCall as error:
            end = draft.damaged(source, opened, closing, error)
        at = end
    tail = source.rest(at)
    if first or tail.strip():
        draft.texts.append(tail)


def read_marked_calls(
    source: Source,
    at: int,
    draft: Draft,
    opening: str,
    closing: str,
    read_calls: Callable[[Source, int], tuple[list[ToolCall], int]],
) -> None:
    """Reads text and calls in turns, white space included, to the end of the text; ``read_calls`` reads the closing too."""
    while (opened := source.find(opening, at)) >= 0:
        draft.texts.append(source.rest(at, opened))
        try:
            calls, at = read_calls(source, opened + len(opening))
            draft.calls += calls
        except BadCall as error:
            at = draft.damaged(source, opened, closing, error)
    draft.texts.append(source.rest(at))


def read_named_json(source: Source, at: int, separator: str, what: str) -> tuple[str, Any, int]:
    """The text before a separator, ``what`` in words, the JSON value behind it, and where that ends."""
    begun = source.find(separator, at)
    if begun < 0:
        raise BadCall(f"expected {separator} after {what}")
    value, end = decode_json(source.text, source.skip_space(begun + len(separator)))
    return source.rest(at, begun).strip(), value, end


def read_section(source: Source, start: int, draft: Draft, tags: tuple[str, str, str, str], read_call: Any) -> None:
    """Reads text, then calls in a section."""
    section, opening, closing, section_end = tags
    begin = source.find(section, start)
    draft.texts.append(source.rest(start, begin if begin >= 0 else None))
    if begin < 0:
        return
    at = begin + len(section)
    while True:
        token_at, token = source.first((opening, section_end), at)
        between = source.rest(at, token_at if token_at >= 0 else None)
        if token != opening:
            if between.strip():
                draft.unparsed.append(UnparsedCall(between, f"expected {opening} or {section_end}"))
            if token == section_end and source.rest(token_at + len(section_end)).strip():
                draft.texts.append(source.rest(token_at + len(section_end)))
            return
        if between.strip():
            draft.unparsed.append(UnparsedCall(between, f"expected {opening}"))
        try:
            call, end = read_call(source, token_at + len(opening))
            end = source.skip_space(end)
            if not source.at(closing, end):
                raise BadCall(f"expected {closing}, found {source.rest(end, end + 30)!r}")
            draft.calls.append(call)
            at = end + len(closing)
        except BadCall as error:
            closed, which = source.first((closing, section_end), token_at)
            at = len(source.text) if closed < 0 else closed + (len(closing) if which == closing else 0)
            draft.unparsed.append(UnparsedCall(source.rest(token_at, at), str(error)))
