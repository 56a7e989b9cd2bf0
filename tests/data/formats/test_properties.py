"""What holds for every format on any conversation."""

from __future__ import annotations

import json

import pytest
from format_chats import (
    CONTROL_TEXTS,
    calls_of,
    chats,
    nasty_text,
    one_call_a_message,
    own,
    plain_text,
    text_of,
)
from format_golden import PROFILE
from hypothesis import assume, given
from hypothesis import strategies as st

from torchtune.data import Message, ToolCall
from torchtune.data.formats import ChatFormat, Segment, get_format, list_formats

PLAIN = [name for name in list_formats() if not get_format(name).native_tools]
FORMATS = [get_format(name) for name in list_formats() if name not in PLAIN]
FORMATS += [
    get_format(name, tool_convention="hermes") for name in PLAIN if "tool_convention" in get_format(name).options
]
IDS = [fmt.name for fmt in FORMATS]
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=IDS)


def fit(fmt: ChatFormat, messages: list[Message]) -> list[Message]:
    """The messages that the family can take: Gemma 2 has no system message, some take one call a message."""
    if not fmt.system_role and fmt.name != "gemma3":  # which puts the system text into the first user message
        messages = [message for message in messages if message.role != "system"]
    return messages


def try_render(fmt: ChatFormat, messages: list[Message], tools: list) -> list[Segment]:
    """The segments; a conversation with an argument that the family's syntax cannot carry is left out."""
    try:
        return fmt.render(messages, tools)
    except ValueError as error:
        assume("cannot carry" not in str(error))
        raise


def chats_for(fmt: ChatFormat, text: st.SearchStrategy[str] = plain_text) -> st.SearchStrategy:
    return chats(text, parallel=not one_call_a_message(fmt))


@every_format
@PROFILE
@given(data=st.data())
def test_parse_inverts_render(fmt: ChatFormat, data: st.DataObject) -> None:
    messages, tools = data.draw(chats_for(fmt, nasty_text))
    messages = fit(fmt, messages)
    segments = try_render(fmt, messages, tools)
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        parsed = fmt.parse(own(segments, index), tools)
        assert calls_of(parsed.tool_calls) == calls_of(message.tool_calls)
        assert parsed.content.strip() == message.text_content.strip()
        assert parsed.unparsed == []


@every_format
@PROFILE
@given(data=st.data())
def test_prompt_is_a_prefix_of_the_training_text(fmt: ChatFormat, data: st.DataObject) -> None:
    messages, tools = data.draw(chats_for(fmt))
    messages = fit(fmt, messages)
    full = text_of(try_render(fmt, messages, tools))
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = text_of(fmt.render(messages[:index], tools, add_generation_prompt=True))
        if fmt.rewrites_history:
            turn = text_of(fmt.render_turn(messages[: index + 1], tools))
            assert turn.startswith(prompt) and len(turn) > len(prompt)
        else:
            assert full.startswith(prompt)
            assert text_of(fmt.render_turn(messages[: index + 1], tools)) == prompt + text_of(
                own(fmt.render(messages, tools), index)
            )


@every_format
@PROFILE
@given(data=st.data())
def test_text_from_the_data_forges_no_control_token(fmt: ChatFormat, data: st.DataObject) -> None:
    """The control tokens are those of the same conversation with harmless text."""
    messages, tools = data.draw(chats_for(fmt))
    messages = fit(fmt, messages)
    poison = " ".join(CONTROL_TEXTS + fmt.controls)
    poisoned = [_poison(message, poison) for message in messages]
    segments = try_render(fmt, poisoned, tools)
    harmless = try_render(fmt, [_poison(message, "ok") for message in messages], tools)
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


@every_format
@PROFILE
@given(data=st.data())
def test_nothing_of_a_conversation_is_lost(fmt: ChatFormat, data: st.DataObject) -> None:
    messages, tools = data.draw(chats_for(fmt))
    messages = fit(fmt, messages)
    segments = try_render(fmt, messages, tools)
    for index, message in enumerate(messages):
        mine = text_of([s for s in segments if s.message_index == index])
        if message.role == "tool":
            content = message.text_content.strip()
            assert content in mine or json.dumps(content, ensure_ascii=False)[1:-1] in mine
        else:
            assert message.text_content.strip() in mine
        assert all(call.name in mine for call in message.tool_calls or [])


@every_format
@PROFILE
@given(data=st.data())
def test_damaged_output_never_raises_and_never_invents_a_call(fmt: ChatFormat, data: st.DataObject) -> None:
    messages, tools = data.draw(chats_for(fmt))
    messages = fit(fmt, messages)
    index = max(i for i, m in enumerate(messages) if m.role == "assistant" and (m.tool_calls or i == len(messages) - 1))
    text = text_of(own(try_render(fmt, messages, tools), index))
    cut = data.draw(st.integers(0, len(text)))
    damaged = (
        text[:cut] + data.draw(st.sampled_from(["", "}", "<", "\x00", "</tool_call>", "[ARGS]"])) + text[cut + 1 :]
    )
    for output in (text[:cut], damaged):
        parsed = fmt.parse(output, tools)
        assert all(isinstance(call.arguments, dict) and call.name for call in parsed.tool_calls)
        assert all(unparsed.reason and unparsed.text for unparsed in parsed.unparsed)
    whole = calls_of(messages[index].tool_calls)
    kept = calls_of(fmt.parse(text[:cut], tools).tool_calls)
    assert [name for name, _ in kept] == [name for name, _ in whole[: len(kept)]]


@every_format
@PROFILE
@given(text=st.one_of(nasty_text, st.text(max_size=60)))
def test_any_text_can_be_parsed(fmt: ChatFormat, text: str) -> None:
    for output in (text, [Segment(text)], [Segment(token, special=True) for token in fmt.controls]):
        parsed = fmt.parse(output)
        assert isinstance(parsed.content, str)


@every_format
@PROFILE
@given(data=st.data())
def test_every_segment_says_whose_it_is(fmt: ChatFormat, data: st.DataObject) -> None:
    messages, tools = data.draw(chats_for(fmt))
    messages = fit(fmt, messages)
    segments = try_render(fmt, messages, tools)
    assert all(segment.text for segment in segments)
    for segment in segments:
        if segment.sampled:
            assert segment.message_index is not None and messages[segment.message_index].role == "assistant"
            assert segment.part in ("content", "reasoning", "call", "end", "header")
    assert {s.message_index for s in segments} >= set(range(len(messages)))
