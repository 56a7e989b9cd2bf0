"""Reading calls."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchtune.data._tool_calls import read_arguments, read_call, read_calls
from torchtune.data._turns import split_hermes_calls, split_hermes_results

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(), JSON, max_size=4)


@given(ARGUMENTS, st.booleans())
def test_arguments_as_string_or_object_are_the_same(arguments: dict, escape: bool) -> None:
    text = json.dumps(arguments, ensure_ascii=escape)
    assert (
        read_arguments(arguments, "x")
        == read_arguments(text, "x")
        == read_arguments(json.dumps(text), "x")
        == arguments
    )


@pytest.mark.parametrize("nothing", [None, "", " ", "null", {}, "{}"])
def test_no_arguments(nothing: object) -> None:
    assert read_arguments(nothing, "x") == {}


def test_types_survive() -> None:
    read = read_arguments('{"zip": "75001", "n": 75001, "x": 1.0, "none": null, "yes": true}', "x")
    assert [type(value) for value in read.values()] == [str, int, float, type(None), bool]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ('{"a": 1,}', r"message 3, call of 'f': not valid JSON: .* at character \d+, near '"),
        ('{"a": 1', "message 3, call of 'f': not valid JSON: .* at character 7"),
        ("[1]", "message 3, call of 'f': arguments must be an object, but found list"),
        ([1], "message 3, call of 'f': arguments must be an object, but found list"),
        (7, "message 3, call of 'f': arguments must be an object, but found int"),
        ('{"a": 1, "a": 2}', "message 3, call of 'f': .*key 'a' stands twice"),
        ('{"a": NaN}', "message 3, call of 'f': .*NaN is no JSON value"),
        ('{"a":' + "[" * 100_000, "message 3, call of 'f': not usable JSON"),
    ],
)
def test_bad_arguments_are_refused_with_message_and_position(arguments: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_call({"name": "f", "arguments": arguments}, "message 3")


@pytest.mark.parametrize(
    "call",
    [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}},
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "a", "name": "f", "arguments": {"x": 1}},
        {"id": "a", "name": "f", "parameters": {"x": 1}, "arguments": None},
        {"id": "a", "type": "tool_use", "name": "f", "input": {"x": 1}},
        json.dumps({"id": "a", "name": "f", "arguments": {"x": 1}}),
        {"id": "a", "function": json.dumps({"name": "f", "arguments": {"x": 1}})},
    ],
)
def test_every_form_of_a_call(call: object) -> None:
    assert read_call(call, "x") == {"name": "f", "arguments": {"x": 1}, "id": "a"}


def test_call_without_arguments() -> None:
    assert read_call({"function": {"name": "f"}}, "x") == {"name": "f", "arguments": {}, "id": None}


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"arguments": {}}, "message 2: the call has no name"),
        ({"function": {"name": None, "arguments": {}}}, "message 2: the call has no name"),
        ({"name": "", "arguments": {}}, "message 2: the call has no name"),
        ({"name": "f", "arguments": {"a": 1}, "parameters": {"b": 1}}, "message 2: .*arguments under"),
        ([1], "message 2: a call must be an object"),
        ("f(1)", "message 2: not valid JSON"),
    ],
)
def test_what_is_no_call_is_refused(call: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_call(call, "message 2")


def test_calls_as_list_object_or_string() -> None:
    calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "g"}]
    read = [{"name": "f", "arguments": {"x": 1}, "id": None}, {"name": "g", "arguments": {}, "id": None}]
    assert read_calls(calls, "x") == read_calls(json.dumps(calls), "x") == read
    assert read_calls(calls[0], "x") == read[:1]
    assert read_calls(None, "x") == read_calls([], "x") == read_calls("", "x") == []
    with pytest.raises(ValueError, match="x, call 1: the call has no name"):
        read_calls([calls[0], {}], "x")


def test_hermes_calls_with_text_before() -> None:
    text = 'Let me see.\n<tool_call>\n{"name": "f", "arguments": {"x": "</x>"}}\n</tool_call>\n<tool_call>{"name": "g"}</tool_call>\n'
    content, calls = split_hermes_calls(text, "m")
    assert content == "Let me see."
    assert [(call["name"], call["arguments"]) for call in calls] == [("f", {"x": "</x>"}), ("g", {})]


def test_hermes_calls_as_python_literals() -> None:
    text = "<tool_call>\n{'arguments': {'a': None, 'b': True}, 'name': 'f'}\n</tool_call>"
    assert split_hermes_calls(text, "m") == ("", [{"name": "f", "arguments": {"a": None, "b": True}, "id": None}])


def test_text_without_calls_is_left_alone() -> None:
    assert split_hermes_calls(" plain \n", "m") == (" plain \n", [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('<tool_call>{"name": "f"}', "m: found a <tool_call> that is not closed"),
        ('<tool_call>{"name": "f"}</tool_call> and text', "m: found text after a call"),
        ("<tool_call>f(1)</tool_call>", "m: not valid JSON"),
    ],
)
def test_damaged_hermes_calls_are_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        split_hermes_calls(text, "m")


def test_hermes_results_are_split_verbatim() -> None:
    text = '<tool_response>\n{"a": 1}\n</tool_response>\n<tool_response>\n two \n</tool_response>\n'
    assert split_hermes_results(text) == ['{"a": 1}', " two "]
    assert split_hermes_results("plain") == ["plain"]
    assert split_hermes_results("a <tool_response>b</tool_response>") == ["a <tool_response>b</tool_response>"]
