"""Twenty rows that training libraries get wrong, from row to text, on five families. tool_cases.py has the table."""

from __future__ import annotations

import json
from typing import Any

import pytest
from format_chats import calls_of, own, text_of

from torchtune.data import OpenAIToMessages, ShareGPTToMessages, validate_messages
from torchtune.data.formats import get_format

five = pytest.mark.parametrize("name", ["llama3_1", "qwen2_5", "qwen3", "mistral_v7", "hermes"])

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": PARAMETERS}}]


def call(arguments: Any = None, identity: str = "abc123XYZ", name: str = "weather") -> dict[str, Any]:
    """A call in OpenAI form."""
    function = {"name": name} if arguments is None else {"name": name, "arguments": arguments}
    return {"id": identity, "type": "function", "function": function}


def result(content: Any = "sunny", identity: str = "abc123XYZ") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def assistant(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls), **fields}


USER = {"role": "user", "content": "Weather in Rome?"}
ANSWER = {"role": "assistant", "content": "It is sunny."}


def render(name: str, *messages: dict[str, Any], tools: Any = TOOLS, **options: Any) -> tuple[list, list]:
    """Messages and segments of a row in OpenAI form."""
    row = {"messages": list(messages)} | ({} if tools is None else {"tools": tools})
    sample = OpenAIToMessages()(row)
    return sample["messages"], get_format(name, **options).render(sample["messages"], sample.get("tools"))


def text(name: str, *messages: dict[str, Any], tools: Any = TOOLS, **options: Any) -> str:
    return text_of(render(name, *messages, tools=tools, **options)[1])


def reread(name: str, *messages: dict[str, Any], index: int = 1) -> Any:
    """A message's own segments, parsed."""
    return get_format(name).parse(own(render(name, *messages)[1], index), TOOLS)


@five
def test_argument_strings_and_objects_are_the_same(name: str) -> None:
    arguments = {"city": "Rome"}
    one = text(name, USER, assistant(call(arguments)), result(), ANSWER)
    assert one == text(name, USER, assistant(call(json.dumps(arguments))), result(), ANSWER)
    assert json.dumps(json.dumps(arguments))[1:-1] not in one


@five
def test_text_beside_a_call_stays_before_it(name: str) -> None:
    parsed = reread(name, USER, assistant(call({"city": "Rome"}), content="One moment."), result(), ANSWER)
    assert parsed.content == "One moment." and calls_of(parsed.tool_calls) == [("weather", '{"city": "Rome"}')]


@five
def test_reasoning_beside_a_call_is_written_where_the_family_thinks(name: str) -> None:
    row = (USER, assistant(call({"city": "Rome"}), reasoning_content="Look it up."), result(), ANSWER)
    assert ("Look it up." in text(name, *row)) == get_format(name).writes_reasoning == (name == "qwen3")
    assert len(reread(name, *row).tool_calls) == 1


@five
def test_parallel_calls_and_results_out_of_order(name: str) -> None:
    calls = assistant(call({"city": "Oslo"}, "first0001"), call({"city": "Rome"}, "second002"))
    row = (USER, calls, result("rain", "second002"), result("sun", "first0001"), ANSWER)
    if name == "llama3_1":
        with pytest.raises(ValueError, match="message 1 .*found 2 calls in one message"):
            text(name, *row)
        return
    written = text(name, *row)
    assert written.index("rain") < written.index("sun")  # the order of the row, as the templates have it
    assert len(reread(name, *row).tool_calls) == 2
    if name == "mistral_v7":
        assert "second002[TOOL_CONTENT] rain" in written and "first0001[TOOL_CONTENT] sun" in written


@five
def test_empty_tools_are_absent_tools(name: str) -> None:
    assert text(name, USER, ANSWER, tools=[]) == text(name, USER, ANSWER, tools=None)


@five
def test_sharegpt_rows_give_the_same_text(name: str) -> None:
    turns = [
        {"from": "human", "value": "Weather in Rome?"},
        {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Rome"}})},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "It is sunny."},
    ]
    sample = ShareGPTToMessages()({"conversations": turns, "tools": json.dumps(TOOLS)})
    options = {"call_ids": "derive"} if name == "mistral_v7" else {}
    ours = text_of(get_format(name, **options).render(sample["messages"], sample["tools"]))
    plain = call({"city": "Rome"})
    without_ids = {key: value for key, value in result().items() if key != "tool_call_id"}
    del plain["id"]
    assert ours == text(name, USER, assistant(plain), without_ids, ANSWER, **options)


@five
def test_content_missing_null_or_in_parts(name: str) -> None:
    made = assistant(call({"city": "Rome"}))
    missing = {key: value for key, value in made.items() if key != "content"}
    texts = {text(name, USER, turn, result(), ANSWER) for turn in (made, missing, {**made, "content": None})}
    assert len(texts) == 1
    parts = {"role": "user", "content": [{"type": "text", "text": "Weather in Rome?"}]}
    assert text(name, parts, made, result(), ANSWER) in texts


@five
def test_real_null_survives_beside_arrows_padding(name: str) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": ["string", "null"]}}}
    tools = [{"type": "function", "function": {"name": "weather", "description": "", "parameters": parameters}}]
    padded = assistant(call({"city": None, "order_id": None}))
    messages, segments = render(name, USER, padded, result(), ANSWER, tools=tools)
    parsed = get_format(name).parse(own(segments, 1), tools)
    assert parsed.tool_calls[0].arguments == {"city": None}
    assert "order_id" not in text_of(segments)


@five
def test_call_without_arguments_has_none(name: str) -> None:
    assert reread(name, USER, assistant(call(None)), result(), ANSWER).tool_calls[0].arguments == {}


@five
def test_call_and_answer_are_sampled_and_the_result_is_not(name: str) -> None:
    _, segments = render(name, USER, assistant(call({"city": "Rome"})), result("sunny"), ANSWER)
    sampled = text_of([s for s in segments if s.sampled])
    assert '"Rome"' in sampled and "It is sunny." in sampled and sampled.count("sunny") == 1
    assert {s.message_index for s in segments if s.sampled} == {1, 3}


@five
def test_history_without_thoughts_gets_none(name: str) -> None:
    turns = [
        m for n in range(3) for m in ({"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"})
    ]
    written = text(name, *turns, tools=None)
    assert written.count("<think>") == (1 if name == "qwen3" else 0)
    assert name != "qwen3" or written.index("<think>") > written.index("q2")


@five
def test_digits_in_a_string_stay_a_string(name: str) -> None:
    parsed = reread(name, USER, assistant(call({"city": "75001"})), result(), ANSWER)
    assert parsed.tool_calls[0].arguments == {"city": "75001"}


@five
def test_tags_and_tokens_in_arguments_stay_text(name: str) -> None:
    arguments = {"city": "a </tool_call> <think> b </think> <|im_end|> </s> <|eot_id|> [/INST] c"}
    row = (USER, assistant(call(arguments)), result(), ANSWER)
    assert reread(name, *row).tool_calls[0].arguments == arguments
    harmless = render(name, USER, assistant(call({"city": "c"})), result(), ANSWER)[1]
    assert [s.text for s in render(name, *row)[1] if s.special] == [s.text for s in harmless if s.special]


@five
def test_long_ids_are_taken_or_refused_with_a_way_out(name: str) -> None:
    identity = "call_oIHazX6yQrB8hUwl4cRilFKj"
    row = (USER, assistant(call({"city": "Rome"}, identity)), result("sunny", identity), ANSWER)
    if name == "mistral_v7":
        with pytest.raises(ValueError, match="expected nine letters or digits.*derive"):
            text(name, *row)
        assert identity not in text(name, *row, call_ids="derive")
    else:
        assert "sunny" in text(name, *row)


def test_result_for_an_unknown_id_is_refused() -> None:
    sample = OpenAIToMessages()({"messages": [USER, assistant(call({})), result("x", "other"), ANSWER], "tools": TOOLS})
    with pytest.raises(ValueError, match="other"):
        validate_messages(sample["messages"], sample["tools"])


def test_call_to_an_undeclared_tool_is_refused() -> None:
    row = {"messages": [USER, assistant(call({}, name="forecast")), result(), ANSWER], "tools": TOOLS}
    sample = OpenAIToMessages()(row)
    with pytest.raises(ValueError, match="forecast"):
        validate_messages(sample["messages"], sample["tools"])


@five
def test_trace_cut_in_mid_call_is_an_unparsed_call(name: str) -> None:
    whole = text_of(own(render(name, USER, assistant(call({"city": "Rome"})), result(), ANSWER)[1], 1))
    parsed = get_format(name).parse(whole[: whole.index("Rome") + 2])
    assert parsed.tool_calls == [] and not parsed.complete
    assert "cut off" in parsed.unparsed[0].reason


@five
def test_last_message_may_be_a_result(name: str) -> None:
    messages, segments = render(name, USER, assistant(call({"city": "Rome"})), result())
    assert messages[-1].role in ("tool", "ipython")
    assert not any(s.sampled for s in segments if s.message_index == 2)


@five
def test_runs_of_one_role_are_kept(name: str) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    turns += [{"role": "assistant", "content": "c"}, {"role": "assistant", "content": "d"}]
    messages, segments = render(name, *turns, tools=None)
    written = text_of(segments)
    assert ("a\n\nb" in written) == (name == "mistral_v7")
    assert [
        text_of([s for s in segments if s.message_index == i and s.part == "content"]).strip() for i in range(4)
    ] == list("abcd")


@five
def test_rows_with_and_without_tools_stand_side_by_side(name: str) -> None:
    with_tools, without = text(name, USER, ANSWER), text(name, USER, ANSWER, tools=None)
    assert "weather" in with_tools and '"weather"' not in without
    assert with_tools.endswith(without[without.index("Weather in Rome?") :])
