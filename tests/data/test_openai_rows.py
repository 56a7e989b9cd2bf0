"""OpenAIToMessages on rows with tools: nothing is lost, nothing is made up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchtune.data import Message, OpenAIToMessages, ToolCall, validate_messages

TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"x": {}, "city": {}}}},
    }
    for name in ("f", "g")
]


def call(name: str, arguments: Any = None, id: str | None = None) -> dict[str, Any]:
    function = {"name": name, "arguments": {} if arguments is None else arguments}
    return {"type": "function", "function": function, **({} if id is None else {"id": id})}


def load(*messages: dict[str, Any], tools: Any = TOOLS, **options: Any) -> list[Message]:
    sample = OpenAIToMessages(**options)({"messages": list(messages), "tools": tools})
    validate_messages(sample["messages"], sample.get("tools"))
    return sample["messages"]


USER = {"role": "user", "content": "Weather in Oslo?"}
ANSWER = {"role": "assistant", "content": "Cold."}


@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}], ids=["null", "empty", "missing"])
def test_content_null_or_missing_never_takes_the_text_of_another_message(content: dict) -> None:
    messages = load(
        USER, {"role": "assistant", **content, "tool_calls": [call("f")]}, {"role": "tool", "content": "4"}, ANSWER
    )
    assert [m.text_content for m in messages] == ["Weather in Oslo?", "", "4", "Cold."]
    assert messages[1].content == [{"type": "text", "content": ""}]


def test_content_null_in_the_first_message() -> None:
    assert load({"role": "user", "content": None}, ANSWER)[0].text_content == ""


def test_arguments_as_json_string_and_as_object() -> None:
    for arguments in ({"city": "Oslo", "x": None}, '{"city": "Oslo", "x": null}'):
        messages = load(USER, {"role": "assistant", "content": None, "tool_calls": [call("f", arguments, "a")]})
        assert messages[1].tool_calls == [ToolCall("f", {"city": "Oslo", "x": None}, "a")]


def test_tools_column_as_list_and_as_json_string() -> None:
    for tools in (TOOLS, json.dumps(TOOLS)):
        assert OpenAIToMessages()({"messages": [USER, ANSWER], "tools": tools})["tools"] == TOOLS


def test_a_question_under_an_unknown_key_is_told_and_not_lost() -> None:
    for key in ("text", "contents"):
        with pytest.raises(ValueError, match="message 0 .* has no 'content'.*" + key):
            load({"role": "user", key: "Where?"}, ANSWER)
    assert load(USER, {"role": "assistant", "tool_calls": [call("f")]})[1].text_content == ""


def test_text_and_calls_in_one_message() -> None:
    message = load(USER, {"role": "assistant", "content": " Let me see. ", "tool_calls": [call("f")]})[1]
    assert message.text_content == " Let me see. "
    assert message.tool_calls == [ToolCall("f")]


def test_parallel_results_keep_their_call_ids_in_any_order() -> None:
    messages = load(
        USER,
        {
            "role": "assistant",
            "tool_calls": [call("f", {"x": 1}, "a"), call("g", {"x": 2}, "b"), call("f", {"x": 3}, "c")],
        },
        {"role": "tool", "tool_call_id": "c", "content": "three"},
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": "two", "name": "g"},
        ANSWER,
    )
    assert [(c.name, c.arguments, c.id) for c in messages[1].tool_calls] == [
        ("f", {"x": 1}, "a"),
        ("g", {"x": 2}, "b"),
        ("f", {"x": 3}, "c"),
    ]
    assert [(m.tool_call_id, m.name, m.text_content) for m in messages[2:5]] == [
        ("c", None, "three"),
        ("a", None, "one"),
        ("b", "g", "two"),
    ]
    assert [m.eot for m in messages] == [True, False, False, False, False, True]


def test_chain_of_calls_with_reasoning() -> None:
    messages = load(
        USER,
        {"role": "assistant", "reasoning_content": "first f", "tool_calls": [call("f")]},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "reasoning_content": "then g", "content": "", "tool_calls": [call("g")]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "reasoning": "done", "content": "3"},
    )
    assert [m.reasoning_content for m in messages] == [None, "first f", None, "then g", None, "done"]
    assert [m.ipython for m in messages] == [False, True, False, True, False, False]


@pytest.mark.parametrize("key", ["text", "content", "value"])
def test_content_in_typed_parts(key: str) -> None:
    value = {"name": "f", "arguments": {"x": 1}}
    messages = load(
        {"role": "user", "content": [{"type": "text", key: "a"}, {"type": "text", key: " b"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "reasoning", key: "think"},
                {"type": "text", key: "now"},
                {"type": "tool_call", "value": value},
                {"type": "tool_call", "value": json.dumps(value)},
            ],
        },
        {"role": "tool", "content": [{"type": "text", key: "r"}]},
        ANSWER,
    )
    assert messages[0].content == [{"type": "text", "content": "a"}, {"type": "text", "content": " b"}]
    assert (messages[1].reasoning_content, messages[1].text_content) == ("think", "now")
    assert messages[1].tool_calls == [ToolCall("f", {"x": 1})] * 2
    assert messages[2].content == [{"type": "text", "content": "r"}]


def test_parts_of_reasoning_and_calls_alone_leave_empty_text() -> None:
    parts = [{"type": "reasoning", "value": "hm"}, {"type": "tool_call", "value": {"name": "f"}}]
    assert load(USER, {"role": "assistant", "content": parts})[1].content == [{"type": "text", "content": ""}]


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"type": "video", "video": "x"}, "message 1 .*part 0: unknown part of type 'video'"),
        ({"text": "x"}, "message 1 .*part 0: a part must be an object with a 'type'"),
        ("x", "message 1 .*part 0: a part must be an object"),
        ({"type": "text"}, "message 1 .*part 0: part of type 'text' has none of"),
        ({"type": "text", "text": 3}, "message 1 .*part 0: expected text, but found int"),
    ],
)
def test_unknown_parts_are_refused_not_dropped(part: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load(USER, {"role": "assistant", "content": [part]})


def test_text_after_a_call_in_parts_is_refused() -> None:
    parts = [{"type": "tool_call", "value": {"name": "f"}}, {"type": "text", "text": "late"}]
    with pytest.raises(ValueError, match="message 1 .*part 1: text after a call"):
        load(USER, {"role": "assistant", "content": parts})


@pytest.mark.parametrize(
    "value", [{"t": 21, "alerts": []}, [{"id": 1}, {"id": 2}], [], 21.5, False, [{"type": "text", "id": 1}]]
)
def test_results_that_are_json_values_stay_values(value: Any) -> None:
    message = load(USER, {"role": "assistant", "tool_calls": [call("f")]}, {"role": "tool", "content": value})[2]
    assert message.content == [{"type": "json", "content": value}]
    assert json.loads(message.text_content) == value


def test_whitespace_is_kept() -> None:
    rows = [
        {"role": "system", "content": "  s \n"},
        {"role": "user", "content": "\n u "},
        {"role": "assistant", "content": " a ", "tool_calls": [call("f")]},
        {"role": "tool", "content": "  10\n"},
        {"role": "assistant", "content": " \n b\n\n"},
    ]
    assert [m.text_content for m in load(*rows)] == [row["content"] for row in rows]


def test_other_names_of_roles() -> None:
    messages = load(
        {"role": "developer", "content": "s"},
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
        ANSWER,
    )
    assert [m.role for m in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert messages[2].tool_calls == [ToolCall("f")] and messages[3].name == "f"


def test_tool_calls_as_json_string() -> None:
    assert load(USER, {"role": "assistant", "tool_calls": json.dumps([call("f", {"x": 1})])})[1].tool_calls == [
        ToolCall("f", {"x": 1})
    ]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            {"role": "narrator", "content": "x"},
            "message 1 of column 'messages' has unknown role 'narrator'; expected one of",
        ),
        ({"content": "x"}, "message 1 of column 'messages' has no 'role'"),
        ("x", "message 1 of column 'messages' must be an object"),
        ({"role": "assistant", "content": {"a": 1}}, "message 1 .*content must be text, null or a list of parts"),
        ({"role": "user", "content": "x", "tool_calls": [call("f")]}, "message 1 .*role 'user' and tool calls"),
        (
            {"role": "assistant", "tool_calls": [call("f", "{bad")]},
            "message 1 .*call 0, call of 'f': not valid JSON: .*character 1",
        ),
        ({"role": "assistant", "tool_calls": [call("f", [1])]}, "message 1 .*arguments must be an object"),
        (
            {"role": "assistant", "tool_calls": [call("f"), {"function": {}}]},
            "message 1 .*call 1: the call has no name",
        ),
        (
            {"role": "assistant", "content": "", "reasoning_content": "a", "reasoning": "b"},
            "message 1 .*reasoning in several",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_index_of_its_message(message: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        OpenAIToMessages()({"messages": [USER, message]})


def test_missing_column_says_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no column 'messages'; found \['chat'\]"):
        OpenAIToMessages()({"chat": []})
    with pytest.raises(ValueError, match="Column 'messages' must be a list of messages, but found NoneType"):
        OpenAIToMessages()({"messages": None})


def test_column_map_may_name_only_the_tools() -> None:
    sample = OpenAIToMessages(column_map={"tools": "functions"})({"messages": [USER, ANSWER], "functions": TOOLS})
    assert sample["tools"] == TOOLS


def test_conversation_as_json_string_and_as_list_of_turns() -> None:
    expected = OpenAIToMessages()({"messages": [USER, ANSWER]})
    assert OpenAIToMessages()({"messages": json.dumps([USER, ANSWER])}) == expected
    assert OpenAIToMessages()({"messages": [[USER], [ANSWER]]}) == expected


def test_new_system_prompt_takes_the_place_of_the_rows_own() -> None:
    messages = load({"role": "system", "content": "old"}, USER, ANSWER, new_system_prompt="new")
    assert [(m.role, m.text_content, m.masked) for m in messages][:2] == [
        ("system", "new", True),
        ("user", USER["content"], True),
    ]


def test_the_row_is_not_changed() -> None:
    row = {
        "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call("f", {"x": None, "y": None})]}],
        "tools": TOOLS,
    }
    before = json.dumps(row)
    OpenAIToMessages(nulls="drop")(row)
    assert json.dumps(row) == before


NAMES = st.sampled_from(["f", "g"])
VALUES = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.lists(st.integers(0, 3), max_size=2)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(st.sampled_from(["x", "city"]), VALUES)), min_size=1, max_size=3)
ROUNDS = st.lists(st.tuples(st.none() | st.text(max_size=8), CALLS, st.randoms(use_true_random=False)), max_size=3)


@given(ROUNDS, st.booleans(), st.text(max_size=5))
def test_no_call_argument_result_or_text_is_ever_lost(rounds: list, as_string: bool, text: str) -> None:
    rows: list[dict[str, Any]] = [{"role": "user", "content": text}]
    for n, (content, calls, random) in enumerate(rounds):
        made = [
            call(name, json.dumps(arguments) if as_string else arguments, f"{n}-{k}")
            for k, (name, arguments) in enumerate(calls)
        ]
        rows.append({"role": "assistant", "content": content, "tool_calls": made})
        results = [{"role": "tool", "content": f"r{n}{k}", "tool_call_id": c["id"]} for k, c in enumerate(made)]
        rows.extend(random.sample(results, len(results)))
    rows.append({"role": "assistant", "content": text})
    messages = load(*rows)
    assert [m.role for m in messages] == [row["role"] for row in rows]
    assert [m.text_content for m in messages] == [row["content"] or "" for row in rows]
    assert [m.tool_call_id for m in messages] == [row.get("tool_call_id") for row in rows]
    read = [(c.name, c.arguments, c.id) for m in messages for c in m.tool_calls or []]
    assert read == [
        (name, a, f"{n}-{k}") for n, (_, calls, _) in enumerate(rounds) for k, (name, a) in enumerate(calls)
    ]
