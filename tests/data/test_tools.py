"""Reading a tools column."""

from __future__ import annotations

import json

import pytest

from torchtune.data import OpenAIToMessages
from torchtune.data._tools import read_tools, tool_name, tool_parameters

BARE = {
    "name": "g",
    "parameters": {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}},
}
WRAPPED = {"type": "function", "function": {"name": "f", "description": "Does <f> & more: é"}}


@pytest.mark.parametrize(
    "column",
    [[WRAPPED, BARE], json.dumps([WRAPPED, BARE]), [json.dumps(WRAPPED), json.dumps(BARE)], (WRAPPED, BARE)],
    ids=["list", "string", "list of strings", "tuple"],
)
def test_all_forms_of_a_tools_column_give_the_same_tools_in_order(column: object) -> None:
    tools = read_tools(column)
    assert json.dumps(tools) == json.dumps([WRAPPED, BARE])
    assert [tool_name(tool) for tool in tools] == ["f", "g"]
    assert [tool_parameters(tool) for tool in tools] == [None, BARE["parameters"]]


@pytest.mark.parametrize("column", [None, "", "  ", "[]", "null", []])
def test_no_tools(column: object) -> None:
    rows = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    assert "tools" not in OpenAIToMessages()({"messages": rows, "tools": column})


def test_one_tool_alone() -> None:
    assert read_tools(json.dumps(BARE)) == [BARE]


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ("[{]", "not valid JSON: .* at character 2"),
        (3, "must be a list of tools"),
        ([3], r"tools\[0\] must be an object"),
        ([BARE, {"description": "x"}], r"tools\[1\] has no name"),
        ([{"type": "function", "function": {"description": "x"}}], r"tools\[0\] has no name"),
    ],
)
def test_bad_tools_are_refused_with_their_place(column: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_tools(column)
