"""Tests of the dataset of cases to score tool calls on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from torchtune.datasets import tool_eval_dataset

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def row(name: str = "f") -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": '{"x": 1}'}}
    return {
        "messages": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "Two."},
        ],
        "tools": [TOOL],
    }


def test_assistant_turns_of_rows_become_cases(write_rows: Callable[..., str]) -> None:
    cases = tool_eval_dataset("json", style="openai", data_files=write_rows([row(), row()]), split="train[1:]")
    assert [(case.id, len(case.messages), len(case.expected)) for case in cases] == [
        ("row 2 of rows.jsonl, message 1", 1, 1),
        ("row 2 of rows.jsonl, message 3", 3, 0),
    ]
    assert cases[0].expected[0].arguments == {"x": 1} and cases[0].tools == [TOOL]


def test_sharegpt_rows_with_tools_of_an_option(write_rows: Callable[..., str]) -> None:
    turns = [("human", "Q"), ("function_call", '{"name": "f", "arguments": {"x": 1}}'), ("observation", "2")]
    rows = [{"conversations": [{"from": who, "value": text} for who, text in turns]}]
    (case,) = tool_eval_dataset(write_rows(rows), style="sharegpt", tools=[TOOL])
    assert case.tool_names == ["f"] and [call.name for call in case.expected] == ["f"]


def test_the_number_of_cases_and_turns_can_be_limited(write_rows: Callable[..., str]) -> None:
    path = write_rows([row()] * 3)
    assert len(tool_eval_dataset(path, style="openai", max_cases=4)) == 4
    assert [len(case.messages) for case in tool_eval_dataset(path, style="openai", turns="first")] == [1, 1, 1]


def test_bfcl_rows_become_cases(write_rows: Callable[..., str]) -> None:
    bfcl = {
        "id": "simple_0",
        "question": [[{"role": "user", "content": "Q"}]],
        "function": [{"name": "m.f", "description": "", "parameters": {"type": "dict", "properties": {}}}],
        "ground_truth": [{"m.f": {"x": [1, ""]}}],
    }
    (case,) = tool_eval_dataset(write_rows([bfcl]), style="bfcl", dots="underscore")
    assert (case.id, case.tool_names, case.expected[0].name) == ("simple_0", ["m_f"], "m_f")


def test_a_bad_row_is_named(write_rows: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match=r"^row 2 of rows.jsonl: .*'g'"):
        tool_eval_dataset(write_rows([row(), row("g")]), style="openai")
    with pytest.raises(ValueError, match=r"^row 1 of rows.jsonl: a row of BFCL needs 'question'"):
        tool_eval_dataset(write_rows(json.dumps(row())), style="bfcl")
    with pytest.raises(ValueError, match="Unsupported conversation style: 'alpaca'"):
        tool_eval_dataset(write_rows([row()]), style="alpaca")  # type: ignore[arg-type]
