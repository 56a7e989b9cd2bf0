from __future__ import annotations

import json

import pytest
from torchtune.data._text_calls import read_tool_turns

from torchtune.data import OpenAIToMessages, ShareGPTToMessages

OSLO = {"name": "get_weather", "arguments": {"city": "Oslo", "days": [1, 2.5, None]}}
BERGEN = {"name": "get_weather", "arguments": {"city": 'Bergen\n"north" — ☀'}}


def _openai_call(call, id=None, as_string=True):
    arguments = json.dumps(call["arguments"]) if as_string else call["arguments"]
    body = {"type": "function", "function": {"name": call["name"], "arguments": arguments}}
    return body if id is None else {"id": id, **body}


def _openai(*messages):
    return OpenAIToMessages()({"messages": [{"role": "user", "content": "Weather?"}, *messages]})["messages"]


def _sharegpt(*turns):
    rows = [{"from": "human", "value": "Weather?"}, *({"from": who, "value": said} for who, said in turns)]
    return ShareGPTToMessages()({"conversations": rows})["messages"]


def _said(messages):
    return [(m.role, m.text_content, m.ipython) for m in messages]


def _split(message):
    text, _, calls = message.text_content.rpartition("\n")
    return text, json.loads(calls)


class TestOpenAIToolTurns:
    @pytest.mark.parametrize("as_string", [True, False])
    def test_a_call_becomes_json_and_loses_nothing(self, as_string):
        call = {"role": "assistant", "content": None, "tool_calls": [_openai_call(OSLO, as_string=as_string)]}
        messages = _openai(call, {"role": "tool", "content": "4"}, {"role": "assistant", "content": "It is 4."})
        assert [m.role for m in messages] == ["user", "assistant", "tool", "assistant"]
        assert [m.ipython for m in messages] == [False, True, False, False]
        assert _split(messages[1]) == ("", OSLO)
        assert messages[3].text_content == "It is 4."

    def test_parallel_calls_keep_ids_and_results_follow_their_order(self):
        calls = [_openai_call(OSLO, "a"), _openai_call(BERGEN, "b")]
        messages = _openai(
            {"role": "assistant", "content": "Let me\nlook.\n", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "b", "content": "of b"},
            {"role": "tool", "tool_call_id": "a", "content": "of a"},
        )
        assert _split(messages[1]) == ("Let me\nlook.\n", [{**OSLO, "id": "a"}, {**BERGEN, "id": "b"}])
        assert [m.text_content for m in messages[2:]] == ["of a", "of b"]

    def test_results_of_unknown_calls_stay_where_they_are(self):
        rows = [
            {"role": "assistant", "tool_calls": [_openai_call(OSLO, "a"), _openai_call(BERGEN, "b")]},
            {"role": "tool", "tool_call_id": "b", "content": "1"},
            {"role": "tool", "content": "2"},
        ]
        assert [m.text_content for m in _openai(*rows)[2:]] == ["1", "2"]

    def test_null_content_never_takes_the_text_of_another_message(self):
        messages = _openai({"role": "assistant", "content": None}, {"role": "user", "content": "So?"})
        assert [m.text_content for m in messages] == ["Weather?", "", "So?"]

    def test_null_content_comes_first(self):
        messages = OpenAIToMessages()({"messages": [{"role": "system", "content": None}]})["messages"]
        assert messages[0].text_content == ""

    def test_a_call_written_as_text_is_marked_by_the_result_after_it(self):
        messages = _openai({"role": "assistant", "content": "f(1)"}, {"role": "ipython", "content": "2"})
        assert _said(messages)[1:] == [("assistant", "f(1)", True), ("ipython", "2", False)]

    def test_a_last_call_is_marked(self):
        call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
        assert _said(_openai(call))[-1] == ("assistant", '{"name": "f", "arguments": {}}', True)

    def test_calls_among_content_parts_are_kept(self):
        parts = [{"type": "text", "text": "Now:"}, {"type": "tool_use", "name": "f", "input": {"x": 1}, "id": "t"}]
        assert _split(_openai({"role": "assistant", "content": parts})[1]) == (
            "Now:",
            {"name": "f", "arguments": {"x": 1}, "id": "t"},
        )

    def test_a_result_that_is_a_value_becomes_json(self):
        call = {"role": "assistant", "content": None, "tool_calls": [_openai_call(OSLO)]}
        assert _openai(call, {"role": "tool", "content": {"t": [4, None]}})[2].text_content == '{"t": [4, null]}'

    @pytest.mark.parametrize(
        "message, error",
        [
            ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "message 1, call 0.* no name"),
            ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}, "message 1.*not valid JSON"),
            ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}, "must be an object"),
            ({"role": "user", "content": "", "tool_calls": [{"name": "f"}]}, "only the assistant makes calls"),
            ("hi", "message 1 must be an object"),
        ],
    )
    def test_what_cannot_be_read_is_an_error_with_its_place(self, message, error):
        with pytest.raises(ValueError, match=error):
            _openai(message)


class TestShareGPTToolTurns:
    @pytest.mark.parametrize("caller", ["function_call", "tool_call"])
    @pytest.mark.parametrize("answerer", ["observation", "tool", "tool_response", "function_response"])
    def test_the_same_conversation_gives_the_same_messages(self, caller, answerer):
        said = _sharegpt((caller, json.dumps(OSLO)), (answerer, "4"), ("gpt", "It is 4."))
        call = {"role": "assistant", "content": None, "tool_calls": [_openai_call(OSLO)]}
        assert _said(said) == _said(
            _openai(call, {"role": "tool", "content": "4"}, {"role": "assistant", "content": "It is 4."})
        )

    def test_calls_join_the_text_before_them(self):
        messages = _sharegpt(
            ("gpt", "Let me look."),
            ("function_call", json.dumps(OSLO)),
            ("function_call", json.dumps(BERGEN)),
            ("observation", "4"),
            ("observation", "6"),
        )
        assert _split(messages[1]) == ("Let me look.", [OSLO, BERGEN])
        assert [(m.role, m.ipython) for m in messages[1:]] == [("assistant", True), ("tool", False), ("tool", False)]

    def test_a_turn_that_is_a_call_must_hold_one(self):
        with pytest.raises(ValueError, match="message 1 is a call by its speaker 'function_call', but holds none"):
            _sharegpt(("function_call", None))


class TestPlainRows:
    def test_ordinary_messages_keep_all_they_have(self):
        rows = [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}], "extra": 1},
            {"role": "assistant", "content": "Hello."},
        ]
        assert read_tool_turns(rows) == [{**row, "ipython": False} for row in rows]
        assert rows[0].keys() == {"role", "content", "extra"}
