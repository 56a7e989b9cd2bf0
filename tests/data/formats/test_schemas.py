"""How families write the less common keys of a tool's schema. The texts come from the official templates."""

from __future__ import annotations

from typing import Any

import pytest

from torchtune.data import Message, OpenAIToMessages
from torchtune.data.formats import get_format


def _text(name: str, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> str:
    return "".join(segment.text for segment in get_format(name).render(messages, tools))


def _tool(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "description": "Does it.", "parameters": parameters}}


def test_gemma4_quotes_the_keys_of_a_schema_within_a_lists_items() -> None:
    inner = {"type": "array", "items": {"type": "string", "enum": ["a"]}}
    tool = _tool({"type": "object", "properties": {"n": {"type": "array", "items": inner}}})
    text = _text("gemma4", [Message("user", "hi"), Message("assistant", "ok")], [tool])
    quote = '<|"|>'
    assert (
        f"items:{{items:{{{quote}enum{quote}:[{quote}a{quote}],{quote}type{quote}:{quote}string{quote}}},type:" in text
    )


def test_nemotron_writes_choices_after_the_description_and_required_names_last() -> None:
    field = {"type": "string", "default": "a", "description": "Which.", "enum": ["a", "b"]}
    parameters = {"type": "object", "properties": {"q": field}, "required": ["q"], "additionalProperties": False}
    text = _text("nemotron3", [Message("user", "hi"), Message("assistant", "ok")], [_tool(parameters)])
    assert '<description>Which.</description>\n<enum>["a", "b"]</enum>\n<default>a</default>' in text
    assert "<additionalProperties>False</additionalProperties>\n<required>" in text


def test_nemotron_keeps_the_line_break_where_an_earlier_thought_stood() -> None:
    messages = [
        Message("user", "91?"),
        Message("assistant", "No.", reasoning_content="7 * 13"),
        Message("user", "And 97?"),
        Message("assistant", "Yes."),
    ]
    assert "<|im_start|>assistant\n<think></think>\nNo.<|im_end|>" in _text("nemotron3", messages)


@pytest.mark.parametrize("other, kept", [("units", True), ("city", False)])
def test_a_null_default_is_real_unless_all_tools_look_padded(other: str, kept: bool) -> None:
    tools = [
        _tool({"type": "object", "properties": {"city": {"type": "string", "default": None}}}),
        _tool({"type": "object", "properties": {other: {"type": "string"}}}),
    ]
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]
    sample = OpenAIToMessages()({"messages": messages, "tools": tools})
    first = sample["tools"][0]["function"]["parameters"]["properties"]["city"]
    assert ("default" in first) is kept
