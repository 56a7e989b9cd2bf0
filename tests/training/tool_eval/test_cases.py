"""Tests of how cases are made of conversations and of Berkeley rows."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from torchtune.data._message import Message, ToolCall
from torchtune.training.tool_eval import case_from_bfcl, cases_from_messages, score_calls

TOOLS = [{"type": "function", "function": {"name": "get_weather"}}, {"name": "now"}]
PARIS, ROME = ToolCall("get_weather", {"city": "Paris"}), ToolCall("get_weather", {"city": "Rome"})
CONVERSATION = [
    Message("system", "Use tools."),
    Message("user", "Paris and Rome?"),
    Message("assistant", "", ipython=True, tool_calls=[PARIS, ROME]),
    Message("tool", "sun"),
    Message("tool", "rain"),
    Message("assistant", "Sun and rain."),
    Message("user", "Thanks"),
    Message("assistant", "Welcome."),
]


def bfcl_row(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "multiple_7",
        "question": [[{"role": "user", "content": "How far is it?"}]],
        "function": [
            {
                "name": "map.distance",
                "description": "Distance of two points.",
                "parameters": {
                    "type": "dict",
                    "properties": {
                        "start": {"type": "tuple", "items": {"type": "float"}},
                        "options": {"type": "dict", "properties": {"type": {"type": "string"}}},
                        "extra": {"type": "any"},
                        "unit": {"type": "string", "default": "km"},
                    },
                    "required": ["start"],
                },
            }
        ],
        "ground_truth": [
            {"map.distance": {"start": [[1.5, 2]], "options": [{"type": ["air", ""]}, ""], "unit": ["km", ""]}}
        ],
    }
    return {**row, **changes}


def test_each_assistant_turn_becomes_a_case_of_what_stands_before_it() -> None:
    cases = cases_from_messages(CONVERSATION, TOOLS, id="row 3")
    assert [(len(case.messages), len(case.expected)) for case in cases] == [(2, 2), (5, 0), (7, 0)]
    assert [case.id for case in cases] == ["row 3, message 2", "row 3, message 5", "row 3, message 7"]
    assert cases[0].tool_names == ["get_weather", "now"]
    assert score_calls(cases[0].expected, [ROME, PARIS]).exact


@pytest.mark.parametrize(("turns", "prompts"), [("first", [2]), ("last", [7]), ("all", [2, 5, 7])])
def test_only_the_first_or_the_last_turn_may_be_taken(turns: Any, prompts: list[int]) -> None:
    assert [len(case.messages) for case in cases_from_messages(CONVERSATION, TOOLS, turns=turns)] == prompts


def test_assistant_messages_after_each_other_are_one_turn() -> None:
    messages = [Message("user", "?"), Message("assistant", "Let me see."), Message("assistant", "", tool_calls=[PARIS])]
    (case,) = cases_from_messages(messages, TOOLS)
    assert len(case.messages) == 1 and [call.name for call in case.expected] == ["get_weather"]


def test_a_call_written_as_text_is_refused_by_its_message() -> None:
    messages = [Message("user", "?"), Message("assistant", "f(1)", ipython=True, eot=False), Message("ipython", "2")]
    with pytest.raises(ValueError, match="message 1: the tool call is written as text"):
        cases_from_messages(messages, TOOLS)


def test_an_unknown_choice_of_turns_is_refused() -> None:
    with pytest.raises(ValueError, match="'all', 'first' or 'last'"):
        cases_from_messages(CONVERSATION, TOOLS, turns="some")  # type: ignore[arg-type]


def test_bfcl_types_become_json_schema() -> None:
    (tool,) = case_from_bfcl(bfcl_row()).tools
    schema = tool["function"]["parameters"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert schema["properties"]["start"] == {"type": "array", "items": {"type": "number"}}
    assert schema["properties"]["options"]["properties"] == {"type": {"type": "string"}}
    assert "type" not in schema["properties"]["extra"]
    jsonschema.validate({"start": [1.5, 2], "extra": None}, schema)


def test_bfcl_ground_truth_fulfils_itself() -> None:
    case = case_from_bfcl(bfcl_row())
    (want,) = case.expected
    assert want.first_choice() == {"start": [1.5, 2], "options": {"type": "air"}, "unit": "km"}
    for arguments in (want.first_choice(), {"start": [1.5, 2.0]}, {"start": [1.5, 2], "options": {}}):
        score = score_calls(case.expected, [ToolCall("map.distance", arguments)], tool_names=case.tool_names)
        assert score.exact, score.problems
    assert not score_calls(case.expected, [ToolCall("map.distance", {"start": [1.5, 3]})]).exact


def test_a_bfcl_row_without_ground_truth_expects_no_call() -> None:
    row = bfcl_row()
    del row["ground_truth"]
    assert case_from_bfcl(row).expected == []


def test_dots_in_function_names_stay_or_become_underscores_everywhere() -> None:
    kept, renamed = case_from_bfcl(bfcl_row()), case_from_bfcl(bfcl_row(), dots="underscore")
    assert kept.tool_names == [kept.expected[0].name] == ["map.distance"]
    assert renamed.tool_names == [renamed.expected[0].name] == ["map_distance"]


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"function": []}, "needs 'function'"),
        ({"question": [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]}, "2 turns"),
        ({"ground_truth": [{"f": {}, "g": {}}]}, "each entry of ground_truth"),
    ],
)
def test_a_broken_bfcl_row_is_refused_with_what_is_wrong(changes: dict[str, Any], phrase: str) -> None:
    with pytest.raises(ValueError, match=phrase):
        case_from_bfcl(bfcl_row(**changes))
