"""What holds for every format on any conversation.

Each property is a function of a format and a conversation. A few conversations a format are drawn in every run of the
tests; the slow test draws 500, and holds every property of every format on each.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from format_chats import (
    CONTROL_TEXTS,
    calls_of,
    chats,
    nasty_text,
    one_call_a_message,
    own,
    text_of,
)
from format_golden import PROFILE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchtune.data import Message, ToolCall
from torchtune.data.formats import ChatFormat, Segment, get_format, list_formats


def _with_tools(name: str) -> ChatFormat:
    """The format; where the family has no tools of its own, with the convention that writes them."""
    fmt = get_format(name)
    return fmt if fmt.native_tools else get_format(name, tool_convention="hermes")


FORMATS = [_with_tools(name) for name in list_formats()]

Chat = tuple[list[Message], list[dict]]


class CannotCarry(Exception):
    """The family's syntax cannot carry an argument of the conversation."""


def fit(fmt: ChatFormat, messages: list[Message]) -> list[Message]:
    """The messages that the family can take: Gemma 2 has no system message, some take one call a message."""
    if not fmt.system_role and fmt.name != "gemma3":  # which puts the system text into the first user message
        messages = [message for message in messages if message.role != "system"]
    if not one_call_a_message(fmt):
        return messages
    kept: list[Message] = []
    for message in messages:
        if message.tool_calls and len(message.tool_calls) > 1:
            first = message.tool_calls[:1]
            message = Message("assistant", message.content, tool_calls=first, ipython=True)
        elif message.role == "tool" and kept[-1].role == "tool":
            continue
        kept.append(message)
    return kept


def render(fmt: ChatFormat, messages: list[Message], tools: list) -> list[Segment]:
    try:
        return fmt.render(messages, tools)
    except ValueError as error:
        if "cannot carry" in str(error):
            raise CannotCarry from None
        raise


def parse_inverts_render(fmt: ChatFormat, messages: list[Message], tools: list, at: int) -> None:
    segments = render(fmt, messages, tools)
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        parsed = fmt.parse(own(segments, index), tools)
        assert calls_of(parsed.tool_calls) == calls_of(message.tool_calls)
        assert parsed.content.strip() == message.text_content.strip()
        assert parsed.unparsed == []


#: Their templates end a prompt otherwise than the same text with an answer behind it.
PROMPT_DIFFERS = {"hermes", "nemotron3"}


def prompt_is_a_prefix_of_the_training_text(fmt: ChatFormat, messages: list[Message], tools: list, at: int) -> None:
    """Of the whole conversation, or of the sample that ``expand_turns`` makes of a turn."""
    full = render(fmt, messages, tools)
    samples = fmt.expand_turns(messages, tools)
    assert len(samples) == (sum(m.role == "assistant" for m in messages) if fmt.rewrites_history else 1)
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = text_of(fmt.render(messages[:index], tools, add_generation_prompt=True))
        turn = text_of(fmt.render_turn(messages[: index + 1], tools))
        assert turn.startswith(prompt) and len(turn) > len(prompt)
        if not fmt.rewrites_history:
            assert text_of(full).startswith(prompt)
            assert turn == prompt + text_of(own(full, index))
        elif fmt.name not in PROMPT_DIFFERS:
            sample = next(sample["messages"] for sample in samples if len(sample["messages"]) == index + 1)
            assert text_of(fmt.render(sample, tools)).startswith(prompt)
            assert all(m.masked for m in sample[:-1] if m.role == "assistant") and not sample[-1].masked


def data_forges_no_control_token(fmt: ChatFormat, messages: list[Message], tools: list, at: int) -> None:
    """The control tokens are those of the same conversation with harmless text."""
    poison = " ".join(CONTROL_TEXTS + fmt.controls)
    segments = render(fmt, [_poison(message, poison) for message in messages], tools)
    harmless = render(fmt, [_poison(message, "ok") for message in messages], tools)
    assert [s.text for s in segments if s.special] == [s.text for s in harmless if s.special]
    assert all(s.text in fmt.controls for s in segments if s.special)


def _poison(message: Message, poison: str) -> Message:
    calls = [ToolCall(c.name, {"key": poison}, c.id) for c in message.tool_calls or []] or None
    if message.role == "assistant":  # its own thoughts in tags are thoughts
        poison = " ".join(token for token in poison.split(" ") if "think" not in token.lower())
    text = "" if calls else f"a {poison} b"
    return Message(
        message.role, text, tool_calls=calls, tool_call_id=message.tool_call_id, name=message.name, ipython=bool(calls)
    )


def nothing_is_lost(fmt: ChatFormat, messages: list[Message], tools: list, at: int) -> None:
    segments = render(fmt, messages, tools)
    for index, message in enumerate(messages):
        mine = text_of([s for s in segments if s.message_index == index])
        content = message.text_content.strip()
        forms = {content, json.dumps(content, ensure_ascii=False)[1:-1]} if message.role == "tool" else {content}
        assert any(form in mine for form in forms)
        assert all(call.name in mine for call in message.tool_calls or [])


def damaged_output_invents_no_call(fmt: ChatFormat, messages: list[Message], tools: list, at: int) -> None:
    index = max(i for i, m in enumerate(messages) if m.role == "assistant" and (m.tool_calls or i == len(messages) - 1))
    text = text_of(own(render(fmt, messages, tools), index))
    cut, damages = at % (len(text) + 1), ("", "}", "<", "\x00", "</tool_call>", "[ARGS]")
    for output in (text[:cut], text[:cut] + damages[at % len(damages)] + text[cut + 1 :]):
        parsed = fmt.parse(output, tools)
        assert all(isinstance(call.arguments, dict) and call.name for call in parsed.tool_calls)
        assert all(unparsed.reason and unparsed.text for unparsed in parsed.unparsed)
    whole = calls_of(messages[index].tool_calls)
    kept = calls_of(fmt.parse(text[:cut], tools).tool_calls)
    assert [name for name, _ in kept] == [name for name, _ in whole[: len(kept)]]


def any_text_can_be_parsed(fmt: ChatFormat, messages: list[Message], tools: list, at: int) -> None:
    text = " ".join(message.text_content for message in messages)
    for output in (text, [Segment(text)], [Segment(token, special=True) for token in fmt.controls]):
        assert isinstance(fmt.parse(output).content, str)


def every_segment_says_whose_it_is(fmt: ChatFormat, messages: list[Message], tools: list, at: int) -> None:
    segments = render(fmt, messages, tools)
    assert all(segment.text for segment in segments)
    for segment in segments:
        if segment.sampled:
            assert segment.message_index is not None and messages[segment.message_index].role == "assistant"
            assert segment.part in ("content", "reasoning", "call", "end", "header")
    assert {s.message_index for s in segments} >= set(range(len(messages)))


PROPERTIES: list[Callable[[ChatFormat, list[Message], list, int], None]] = [
    parse_inverts_render,
    prompt_is_a_prefix_of_the_training_text,
    data_forges_no_control_token,
    nothing_is_lost,
    damaged_output_invents_no_call,
    any_text_can_be_parsed,
    every_segment_says_whose_it_is,
]


def holds(fmt: ChatFormat, chat: Chat, at: int) -> bool:
    """Holds every property; False where the family cannot carry the conversation, and says so."""
    messages = fit(fmt, chat[0])
    try:
        for check in PROPERTIES:
            check(fmt, messages, chat[1], at)
    except CannotCarry:
        return False
    return True


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@PROFILE
@given(chat=chats(nasty_text), at=st.integers(0, 10_000))
def test_properties_hold(fmt: ChatFormat, chat: Chat, at: int) -> None:
    holds(fmt, chat, at)


@pytest.mark.slow
def test_properties_hold_on_500_conversations_for_each_format() -> None:
    carried = dict.fromkeys((fmt.name for fmt in FORMATS), 0)

    @settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(chat=chats(nasty_text), at=st.integers(0, 10_000))
    def check(chat: Chat, at: int) -> None:
        for fmt in FORMATS:
            try:
                carried[fmt.name] += holds(fmt, chat, at)
            except Exception as error:
                raise AssertionError(f"format {fmt.name}: {error}") from error

    check()
    assert {name for name, count in carried.items() if count < 500} == set()


def test_every_format_is_held_to_the_properties() -> None:
    assert [fmt.name for fmt in FORMATS] == list_formats() and len(FORMATS) >= 36
