"""ShareGPTToMessages on rows with tools, and the same conversation in every form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torchtune.data import Message, OpenAIToMessages, ShareGPTToMessages, ToolCall, validate_messages

TOOLS = [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}, {"name": "g"}]
CALL_F = {"name": "f", "arguments": {"x": 1}}
CALL_G = {"name": "g", "arguments": {}}


def turn(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value if isinstance(value, str) else json.dumps(value)}


def load(*turns: dict[str, Any], **options: Any) -> list[Message]:
    row = {"conversations": list(turns), "tools": json.dumps(TOOLS)}
    sample = ShareGPTToMessages(**options)(row)
    assert sample["tools"] == TOOLS
    validate_messages(sample["messages"], sample["tools"])
    return sample["messages"]


@pytest.mark.parametrize("call", ["function_call", "tool_call"])
@pytest.mark.parametrize("result", ["observation", "tool", "tool_response", "function_response"])
def test_call_and_result_turns_under_all_their_names(call: str, result: str) -> None:
    messages = load(turn("human", "u"), turn(call, CALL_F), turn(result, {"ok": True}), turn("gpt", "done"))
    assert [m.role for m in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1].tool_calls == [ToolCall("f", {"x": 1})]
    assert messages[2].text_content == '{"ok": true}'
    assert [(m.ipython, m.eot, m.masked) for m in messages] == [
        (False, True, True),
        (True, False, False),
        (False, False, True),
        (False, True, False),
    ]


def test_arguments_in_a_call_turn_may_be_a_string() -> None:
    call = {"name": "f", "arguments": '{"x": 1}'}
    assert load(turn("human", "u"), turn("function_call", call))[1].tool_calls == [ToolCall("f", {"x": 1})]


def test_parallel_calls_as_a_list_or_as_several_turns_are_one_message() -> None:
    as_list = load(turn("human", "u"), turn("function_call", [CALL_F, CALL_G]), turn("observation", "1"))
    as_turns = load(
        turn("human", "u"), turn("tool_call", CALL_F), turn("tool_call", CALL_G), turn("tool_response", "1")
    )
    assert as_list == as_turns
    assert as_list[1].tool_calls == [ToolCall("f", {"x": 1}), ToolCall("g")]


def test_text_directly_before_a_call_turn_joins_it() -> None:
    messages = load(
        turn("human", "u"), turn("gpt", "Let me see."), turn("function_call", CALL_F), turn("observation", "1")
    )
    assert [m.role for m in messages] == ["user", "assistant", "tool"]
    assert messages[1].text_content == "Let me see." and messages[1].tool_calls == [ToolCall("f", {"x": 1})]


def test_a_call_with_another_weight_does_not_join() -> None:
    messages = load(turn("human", "u"), {**turn("gpt", "Hm."), "weight": 0}, turn("function_call", CALL_F))
    assert [(m.role, m.masked) for m in messages] == [("user", True), ("assistant", True), ("assistant", False)]


def test_hermes_text_is_text_unless_asked_for() -> None:
    text = f"<tool_call>\n{json.dumps(CALL_F)}\n</tool_call>"
    turns = [
        turn("human", "u"),
        turn("gpt", text),
        turn("tool", "<tool_response>\n1\n</tool_response>"),
        turn("gpt", "done"),
    ]
    plain = load(*turns)
    assert plain[1].text_content == text and plain[1].ipython and plain[1].tool_calls is None
    read = load(*turns, parse_text_calls=True)
    assert read == load(
        turn("human", "u"), turn("function_call", CALL_F), turn("observation", "1"), turn("gpt", "done")
    )


def test_hermes_text_with_parallel_calls_and_results() -> None:
    calls = "".join(f"\n<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in (CALL_F, CALL_G))
    results = "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"
    messages = load(turn("human", "u"), turn("gpt", "Both:" + calls), turn("tool", results), parse_text_calls=True)
    assert messages[1].text_content == "Both:" and [c.name for c in messages[1].tool_calls] == ["f", "g"]
    assert [m.text_content for m in messages[2:]] == ["1", "2"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (turn("narrator", "x"), "message 1 of column 'conversations' has unknown role 'narrator'"),
        (turn("function_call", "f(1)"), "message 1 of column 'conversations': not valid JSON"),
        (turn("function_call", ""), "message 1 .*is a call by its role, but holds none"),
        (turn("function_call", {"arguments": {}}), "message 1 .*the call has no name"),
        ({"value": "x"}, "message 1 .*has no 'role' \\(or 'from'\\)"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_index_of_its_message(bad: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load(turn("human", "u"), bad)


def conversation_forms() -> dict[str, tuple[Any, dict[str, Any]]]:
    """One conversation, with text beside a call, parallel calls and a chain, in each form a row may have."""

    def openai(encode: Any) -> list[dict[str, Any]]:
        def calls(*items: dict[str, Any]) -> list[dict[str, Any]]:
            return [
                {"type": "function", "function": {**item, "arguments": encode(item["arguments"])}} for item in items
            ]

        return [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "Let me see.", "tool_calls": calls(CALL_F, CALL_G)},
            {"role": "tool", "content": '{"a": 1}'},
            {"role": "tool", "content": "two"},
            {"role": "assistant", "content": None, "tool_calls": calls(CALL_G)},
            {"role": "tool", "content": "three"},
            {"role": "assistant", "content": "done"},
        ]

    def turns(call: str, result: str, names: dict[str, str], role: str, content: str) -> list[dict[str, Any]]:
        said = [
            ("system", "s"),
            ("user", "u"),
            ("assistant", "Let me see."),
            (call, json.dumps(CALL_F)),
            (call, json.dumps(CALL_G)),
            (result, '{"a": 1}'),
            (result, "two"),
            (call, json.dumps({**CALL_G, "arguments": "{}"})),
            (result, "three"),
            ("assistant", "done"),
        ]
        return [{role: names.get(speaker, speaker), content: text} for speaker, text in said]

    share = {"user": "human", "assistant": "gpt"}
    return {
        "openai strings": (OpenAIToMessages(), {"messages": openai(json.dumps), "tools": TOOLS}),
        "openai objects": (OpenAIToMessages(), {"messages": openai(dict), "tools": json.dumps(TOOLS)}),
        "sharegpt": (
            ShareGPTToMessages(),
            {
                "conversations": turns("function_call", "observation", share, "from", "value"),
                "tools": json.dumps(TOOLS),
            },
        ),
        "call and response roles": (
            OpenAIToMessages(),
            {"messages": turns("tool_call", "tool_response", {}, "role", "content"), "tools": TOOLS},
        ),
    }


@pytest.mark.parametrize("form", list(conversation_forms()))
def test_the_same_conversation_in_every_form_gives_the_same_messages(form: str) -> None:
    transform, row = conversation_forms()["openai objects"]
    expected = transform(row)
    transform, row = conversation_forms()[form]
    assert transform(row) == expected
    validate_messages(expected["messages"], expected["tools"])
