"""Arrow's padding and real nulls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchtune.data import ChosenRejectedToMessages, OpenAIToMessages
from torchtune.data._arrow import looks_padded, unpad_calls, unpad_tools


def tool(name: str, required: list[str] = (), **properties: Any) -> dict[str, Any]:  # type: ignore[assignment]
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


STRING, NULLABLE = {"type": "string"}, {"type": "string", "nullable": True}
TOOLS = [tool("weather", ["city"], city=STRING, unit=STRING, room=NULLABLE), tool("order", number={"type": "integer"})]


def arrow_row(*calls: tuple[str, Any], tools: Any = None) -> dict[str, Any]:
    """A row as Arrow gives it: every message and every call with the same keys."""
    made = [{"id": None, "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    messages = [
        {"role": "user", "content": "u", "tool_calls": None, "name": None},
        {"role": "assistant", "content": None, "tool_calls": made, "name": None},
    ]
    return {"messages": messages, "tools": tools}


def plain_row(*calls: tuple[str, Any], tools: Any = None) -> dict[str, Any]:
    """The same row as a JSON file has it."""
    row = arrow_row(*calls, tools=tools)
    row["messages"] = [{k: v for k, v in m.items() if v is not None or k == "content"} for m in row["messages"]]
    return row


def arguments(row: dict[str, Any], nulls: str = "auto") -> list[dict[str, Any]]:
    return [c.arguments for m in OpenAIToMessages(nulls=nulls)(row)["messages"] for c in m.tool_calls or []]


def test_an_argument_the_tool_does_not_declare_is_padding() -> None:
    calls = [("weather", {"city": "Oslo", "number": None}), ("order", {"city": None, "number": 7})]
    for row in (arrow_row(*calls, tools=TOOLS), plain_row(*calls, tools=json.dumps(TOOLS))):
        assert arguments(row) == [{"city": "Oslo"}, {"number": 7}]


def test_a_real_null_argument_survives_beside_padding() -> None:
    row = arrow_row(("weather", {"city": "Oslo", "unit": None, "room": None, "number": None}), tools=TOOLS)
    assert arguments(row) == [{"city": "Oslo", "room": None}]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "nullable": True},
        {"type": ["string", "null"]},
        {"type": "null"},
        {"enum": ["a", None]},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"oneOf": [{"type": "string"}, {"type": ["null", "integer"]}]},
    ],
)
def test_every_way_a_schema_allows_null(schema: dict) -> None:
    assert arguments(arrow_row(("f", {"x": None}), tools=[tool("f", x=schema)])) == [{"x": None}]
    assert arguments(arrow_row(("f", {"x": None}), tools=[tool("f", x=STRING)])) == [{}]


def test_a_required_argument_is_never_taken_for_padding() -> None:
    assert arguments(arrow_row(("weather", {"city": None}), tools=TOOLS)) == [{"city": None}]


def test_a_null_in_a_plain_row_is_real() -> None:
    assert arguments(plain_row(("weather", {"city": "Oslo", "unit": None}), tools=TOOLS)) == [
        {"city": "Oslo", "unit": None}
    ]
    assert arguments(plain_row(("weather", {"city": "Oslo", "unit": None}))) == [{"city": "Oslo", "unit": None}]


def test_without_a_schema_the_shape_of_the_row_decides() -> None:
    assert arguments(arrow_row(("f", {"x": 1, "y": None}))) == [{"x": 1}]
    assert arguments(plain_row(("f", {"x": 1, "y": None}))) == [{"x": 1, "y": None}]
    assert arguments(plain_row(("f", {"x": 1, "y": None}), ("g", {"x": None, "y": 2}))) == [{"x": 1}, {"y": 2}]
    assert arguments(arrow_row(("f", {"x": 1, "y": None}), ("g", {"y": 2}))) == [{"x": 1, "y": None}, {"y": 2}]


def test_nulls_in_a_json_string_are_always_real() -> None:
    assert arguments(arrow_row(("weather", '{"unit": null, "other": null}'), tools=TOOLS)) == [
        {"unit": None, "other": None}
    ]
    row = {"messages": json.dumps(arrow_row(("weather", {"unit": None}))["messages"]), "tools": TOOLS}
    assert arguments(row) == [{"unit": None}]


def test_padding_inside_nested_objects_and_lists() -> None:
    seat = {"type": "object", "properties": {"row": {"type": "integer"}, "note": NULLABLE}}
    tools = [tool("book", seats={"type": "array", "items": seat}, main=seat)]
    padded = {
        "seats": [{"row": 1, "note": None, "x": None}, {"row": None, "note": "a", "x": None}, None],
        "main": {"row": None, "note": None},
    }
    assert arguments(arrow_row(("book", padded), tools=tools)) == [
        {"seats": [{"row": 1, "note": None}, {"note": "a"}, None], "main": {"note": None}}
    ]


def test_options_keep_and_drop() -> None:
    row = arrow_row(("weather", {"city": "Oslo", "room": None, "number": None}), tools=TOOLS)
    assert arguments(row, "keep") == [{"city": "Oslo", "room": None, "number": None}]
    assert arguments(row, "drop") == [{"city": "Oslo"}]
    with pytest.raises(ValueError, match="nulls must be 'auto', 'keep' or 'drop'"):
        OpenAIToMessages(nulls="never")


def test_tools_lose_their_padding_and_keep_their_order() -> None:
    padded = [
        {
            "type": "function",
            "function": {
                "name": "f",
                "strict": None,
                "parameters": {"type": "object", "properties": {"x": {"type": "string", "enum": None}, "y": None}},
            },
        },
        {
            "type": "function",
            "function": {
                "name": "g",
                "strict": True,
                "parameters": {
                    "type": "object",
                    "properties": {"x": None, "y": {"type": ["integer", "null"], "enum": [1, None]}},
                },
            },
        },
    ]
    clean = [
        {
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}},
        },
        {
            "type": "function",
            "function": {
                "name": "g",
                "strict": True,
                "parameters": {"type": "object", "properties": {"y": {"type": ["integer", "null"], "enum": [1, None]}}},
            },
        },
    ]
    for row in (arrow_row(("f", {}), tools=padded), plain_row(("f", {}), tools=padded)):
        assert json.dumps(OpenAIToMessages()(row)["tools"]) == json.dumps(clean)
    assert OpenAIToMessages(nulls="keep")(arrow_row(("f", {}), tools=padded))["tools"] == padded


def test_a_default_of_null_is_real_where_null_is_allowed_or_the_row_is_plain() -> None:
    tools = [tool("f", x={**NULLABLE, "default": None}, y={**STRING, "default": None})]
    only_real = [tool("f", x={**NULLABLE, "default": None}, y=STRING)]
    assert unpad_tools(tools, padded=True) == only_real
    assert unpad_tools(tools, padded=False) == tools
    assert unpad_tools(json.dumps(tools), padded=True) == json.dumps(tools)


def test_preference_rows_are_unpadded_too() -> None:
    messages = arrow_row(("weather", {"city": "Oslo", "number": None}))["messages"]
    sample = ChosenRejectedToMessages()({"chosen": messages, "rejected": messages, "tools": TOOLS})
    assert [sample[key][1].tool_calls[0].arguments for key in ("chosen", "rejected")] == [{"city": "Oslo"}] * 2
    assert sample["tools"] == TOOLS


def test_what_looks_padded() -> None:
    assert looks_padded(arrow_row(("f", {"x": None}))["messages"])
    assert not looks_padded(plain_row(("f", {"x": None}))["messages"])
    assert not looks_padded(plain_row(("f", {"x": None}), ("f", {"x": None}))["messages"])


def test_rows_through_datasets_load_as_they_were() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "messages": [
                {"role": "user", "content": "u"},
                {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": given}}]},
                {"role": "tool", "content": "r", "name": name},
                {"role": "assistant", "content": "done"},
            ],
            "tools": [one],
        }
        for name, given, one in (
            ("weather", {"city": "Oslo", "room": None}, TOOLS[0]),
            ("order", {"number": 7}, TOOLS[1]),
        )
    ]
    loaded = datasets.Dataset.from_list(rows)
    transform = OpenAIToMessages()
    for row, original in zip(loaded, rows, strict=True):
        assert None in row["tools"][0]["function"]["parameters"]["properties"].values()
        assert transform(row) == transform(original)


KEYS = st.sampled_from(["a", "b", "c", "d"])
LEAVES = st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@given(st.lists(st.dictionaries(KEYS, LEAVES, max_size=4), min_size=1, max_size=4))
def test_unpadding_undoes_padding(originals: list[dict[str, Any]]) -> None:
    keys = sorted({key for original in originals for key in original})
    tools = [tool(f"f{i}", **dict.fromkeys(original, STRING)) for i, original in enumerate(originals)]
    calls = [(f"f{i}", {key: original.get(key) for key in keys}) for i, original in enumerate(originals)]
    for given_tools in (tools, []):
        messages = unpad_calls(arrow_row(*calls)["messages"], given_tools, padded=True)
        assert [call["function"]["arguments"] for call in messages[1]["tool_calls"]] == originals
