"""Message and ToolCall."""

from __future__ import annotations

import pytest

from torchtune.data import Message, ToolCall

IMAGE = object()


def test_text_becomes_one_part() -> None:
    assert Message("user", "hi").content == [{"type": "text", "content": "hi"}]


def test_text_content_joins_parts_and_writes_json_values_as_json() -> None:
    parts = [
        {"type": "text", "content": "got "},
        {"type": "image", "content": IMAGE},
        {"type": "json", "content": {"city": "Tromsø", "ok": None}},
    ]
    message = Message("tool", parts)
    assert message.text_content == 'got {"city": "Tromsø", "ok": null}'
    assert message.contains_media and message.get_media() == [IMAGE]


def test_only_assistant_messages_can_be_calls() -> None:
    with pytest.raises(
        ValueError, match="Only assistant messages can be tool calls. Found role user in message: hello world"
    ):
        Message("user", "hello world", ipython=True)
    with pytest.raises(ValueError, match="Only assistant messages can be tool calls. Found role tool in message: x"):
        Message("tool", "x", tool_calls=[ToolCall("f")])


def test_calls_hold_no_media() -> None:
    with pytest.raises(ValueError, match="Media tokens in tool calls are not supported. Both are set in message: "):
        Message("assistant", [{"type": "image", "content": IMAGE}], ipython=True)


def test_weight_zero_masks() -> None:
    assert Message("assistant", "x", weight=0).masked
    assert not Message("assistant", "x", weight=0.5).masked


def test_from_dict_reads_every_field_and_ignores_others() -> None:
    message = Message.from_dict(
        {
            "role": "assistant",
            "content": "Let me see.",
            "masked": True,
            "ipython": True,
            "eot": False,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
            "reasoning_content": "hm",
            "weight": 0.5,
            "name": "bot",
            "other": 1,
        }
    )
    assert message == Message(
        "assistant",
        "Let me see.",
        True,
        True,
        False,
        tool_calls=[ToolCall("f", {"x": 1}, "a")],
        reasoning_content="hm",
        weight=0.5,
        name="bot",
    )


def test_from_dict_keeps_tool_call_objects() -> None:
    call = ToolCall("f", {"x": 1})
    assert Message.from_dict({"role": "assistant", "content": "", "tool_calls": [call]}).tool_calls == [call]


@pytest.mark.parametrize("missing", ["role", "content"])
def test_from_dict_says_what_is_missing(missing: str) -> None:
    fields = {"role": "user", "content": "hi"}
    del fields[missing]
    with pytest.raises(ValueError, match=missing):
        Message.from_dict(fields)


def test_messages_are_equal_by_what_they_say() -> None:
    def make(**changes: object) -> Message:
        return Message(**{"role": "assistant", "content": "x", "tool_calls": [ToolCall("f", {"a": 1})], **changes})

    assert make() == make()
    for change in (
        {"content": "y"},
        {"role": "user", "tool_calls": None},
        {"eot": False},
        {"tool_calls": [ToolCall("g")]},
    ):
        assert make() != make(**change)
    assert make() != "x"


def test_equality_does_not_compare_media_by_value() -> None:
    torch = pytest.importorskip("torch")
    image = torch.zeros(3, 2, 2)
    with_image = Message("user", [{"type": "image", "content": image}])
    assert with_image == Message("user", [{"type": "image", "content": image}])
    assert with_image != Message("user", [{"type": "image", "content": torch.zeros(3, 2, 2)}])


def test_repr_shows_contents_and_what_is_set_of_a_call() -> None:
    assert repr(Message("user", "hi")) == "Message(role='user', content=['hi'])"
    shown = repr(Message("tool", "3", tool_call_id="a", name="f"))
    assert shown == "Message(role='tool', content=['3'], tool_call_id='a', name='f')"


def test_call_in_openai_form_has_an_id_only_where_there_is_one() -> None:
    function = {"name": "f", "arguments": {"x": 1}}
    assert ToolCall("f", {"x": 1}).to_dict() == {"type": "function", "function": function}
    assert ToolCall("f", {"x": 1}, "a").to_dict() == {"id": "a", "type": "function", "function": function}
