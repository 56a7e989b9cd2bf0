"""Tests of how generated tool calls are scored."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchtune.data._message import ToolCall
from torchtune.data.formats._base import ParsedMessage, UnparsedCall
from torchtune.training.tool_eval.scoring import (
    CaseScore,
    ExpectedCall,
    ToolCallScores,
    call_problem,
    score_calls,
    score_message,
    scores_table,
    value_accepted,
    values_equal,
)

WEATHER = ExpectedCall("get_weather", {"city": "Paris", "days": 2})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("expected", "value", "same"),
    [
        (1, 1.0, True),
        (1, 1.5, False),
        (1, "1", False),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        (None, None, True),
        (None, 0, False),
        (None, "", False),
        ("Paris", "paris", False),
        ([1, 2], [1.0, 2], True),
        ([1, 2], [2, 1], False),
        ([], {}, False),
        ({"a": 1, "b": [None]}, {"b": [None], "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
    ],
)
def test_values_compare_by_json_type(expected: object, value: object, same: bool) -> None:
    assert values_equal(expected, value) is same
    assert values_equal(value, expected) is same


@given(JSON)
def test_a_value_equals_itself(value: object) -> None:
    assert values_equal(value, value)


def test_loose_strings_ignore_case_spaces_and_punctuation_but_not_types() -> None:
    assert values_equal("New York, NY", "new york ny", loose_strings=True)
    assert values_equal("it's", 'it"s', loose_strings=True)
    assert not values_equal("New York", "Newark", loose_strings=True)
    assert not values_equal("1", 1, loose_strings=True)


def test_an_accepted_list_takes_any_of_its_values() -> None:
    assert value_accepted(["km", "kilometers"], "kilometers")
    assert not value_accepted(["km", "kilometers"], "miles")
    assert value_accepted([[1, 2], [2, 1]], [2, 1])


def test_objects_in_accepted_values_hold_accepted_values_again() -> None:
    accepted = [[{"field": ["age"], "op": [">", "gt"], "unit": ["years", ""]}]]
    assert value_accepted(accepted, [{"field": "age", "op": "gt"}])
    assert value_accepted(accepted, [{"field": "age", "op": ">", "unit": "years"}])
    assert not value_accepted(accepted, [{"field": "age", "op": "<"}])
    assert not value_accepted(accepted, [{"field": "age"}])
    assert not value_accepted(accepted, [{"field": "age", "op": ">", "more": 1}])


def test_an_empty_string_among_accepted_values_lets_the_argument_be_absent() -> None:
    expected = ExpectedCall("f", {"x": [1], "unit": ["km", ""]}, any_of=True)
    assert call_problem(expected, ToolCall("f", {"x": 1})) is None
    assert call_problem(expected, ToolCall("f", {"x": 1, "unit": "km"})) is None
    assert "'unit' is 'm'" in (call_problem(expected, ToolCall("f", {"x": 1, "unit": "m"})) or "")
    assert "'x' is missing" in (call_problem(expected, ToolCall("f", {"unit": "km"})) or "")
    assert call_problem(ExpectedCall("f", {"unit": ""}), ToolCall("f", {})) is not None


def test_the_problem_names_argument_value_and_what_was_expected() -> None:
    assert call_problem(WEATHER, ToolCall("get_weather", {"city": "Rome", "days": 2})) == (
        "get_weather: argument 'city' is 'Rome', expected 'Paris'"
    )
    assert "unexpected argument 'unit'" in (
        call_problem(WEATHER, ToolCall("get_weather", {"city": "Paris", "days": 2, "unit": "C"})) or ""
    )


@given(st.permutations(range(4)))
def test_the_order_of_parallel_calls_does_not_count(order: list[int]) -> None:
    expected = [ExpectedCall("f", {"x": i}) for i in range(4)]
    score = score_calls(expected, [ToolCall("f", {"x": i}) for i in order])
    assert score.exact and not score.problems


def test_matching_is_the_largest_one() -> None:
    """A greedy matching would give the first call to the first expected one, and lose the second."""
    expected = [ExpectedCall("f", {"x": [1, 2]}, any_of=True), ExpectedCall("f", {"x": [1]}, any_of=True)]
    for calls in itertools.permutations([ToolCall("f", {"x": 1}), ToolCall("f", {"x": 2})]):
        assert score_calls(expected, calls).exact
    wide = [ExpectedCall("f", {"x": list(range(i + 1))}, any_of=True) for i in reversed(range(6))]
    assert score_calls(wide, [ToolCall("f", {"x": i}) for i in range(6)]).matched == 6


def test_an_extra_call_counts_against_the_case() -> None:
    call = ToolCall("get_weather", {"city": "Paris", "days": 2})
    score = score_calls([WEATHER], [call, call])
    assert (score.matched, score.generated, score.exact, score.names_exact) == (1, 2, False, False)
    assert score.problems == ["get_weather: this call was not expected"]


def test_a_wrong_argument_keeps_the_name() -> None:
    score = score_calls([WEATHER], [ToolCall("get_weather", {"city": "Paris", "days": "2"})])
    assert (score.exact, score.names_exact, score.matched) == (False, True, 0)


def test_a_missing_call_is_a_problem() -> None:
    score = score_calls([WEATHER, ExpectedCall("now")], [ToolCall("now")])
    assert not score.exact and score.problems == ["get_weather: this call is missing"]


def test_a_call_of_a_tool_that_does_not_exist_is_counted() -> None:
    score = score_calls([WEATHER], [ToolCall("get_wether", {"city": "Paris"})], tool_names=["get_weather"])
    assert score.unknown == 1
    assert "get_wether: there is no such tool" in score.problems


def test_a_call_that_did_not_parse_is_counted_and_never_exact() -> None:
    message = ParsedMessage(
        tool_calls=[ToolCall("get_weather", {"city": "Paris", "days": 2})],
        unparsed=[UnparsedCall('{"name": ', "not JSON")],
        complete=True,
    )
    score = score_message([WEATHER], message)
    assert (score.matched, score.generated, score.unparsed, score.exact) == (1, 2, 1, False)
    nothing_wanted = score_message([], ParsedMessage(unparsed=[UnparsedCall("{", "not JSON")], complete=True))
    assert ToolCallScores.of([nothing_wanted]).over_called == 1


def test_arguments_that_are_no_object_are_wrong_not_an_error() -> None:
    score = score_calls([WEATHER], [ToolCall("get_weather", ["Paris"])])  # type: ignore[arg-type]
    assert score.matched == 0 and "not an object" in score.problems[0]


def test_rates_over_cases() -> None:
    right = score_calls([WEATHER], [ToolCall("get_weather", {"city": "Paris", "days": 2})])
    missed = score_calls([WEATHER], [], complete=False)
    quiet = score_calls([], [])
    chatty = score_calls([], [ToolCall("made_up")], tool_names=["get_weather"])
    scores = ToolCallScores.of([right, missed, quiet, chatty])
    assert scores.counts() == {
        "accuracy": (2, 4),
        "exact_match": (1, 2),
        "name_match": (1, 2),
        "missed": (1, 2),
        "over_calling": (1, 2),
        "call_recall": (1, 2),
        "call_precision": (1, 2),
        "unknown_tool": (1, 2),
        "unparsed": (0, 2),
        "unfinished": (1, 4),
    }
    assert scores.metrics()["tool_eval/exact_match"] == 0.5


def test_a_rate_without_cases_is_none_and_not_logged() -> None:
    scores = ToolCallScores.of([score_calls([], [])])
    assert scores.rates()["exact_match"] is None
    assert "tool_eval/exact_match" not in scores.metrics()
    assert scores.rates()["accuracy"] == 1.0


def test_the_table_has_a_column_for_each_set_of_scores() -> None:
    before = ToolCallScores.of([CaseScore(expected=1, generated=0, named=0, matched=0)])
    after = ToolCallScores.of([CaseScore(expected=1, generated=1, named=1, matched=1)])
    table = scores_table({"before": before, "after": after})
    assert [column.header for column in table.columns] == ["measure", "before", "after"]
    assert list(table.columns[1].cells)[0] == "0.0% (0/1)"
    assert list(table.columns[2].cells)[0] == "100.0% (1/1)"
