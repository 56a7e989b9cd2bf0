"""Rows in the schema of each public set of tool calls, written here, become the conversations that they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from torchtune.data import _tool_sets as sets
from torchtune.data import validate_messages
from torchtune.datasets import tool_calling_dataset
from torchtune.datasets._builders import chat_transform

FERRY = {
    "name": "find_ferry",
    "description": "Ferries of a day",
    "parameters": {
        "type": "object",
        "properties": {"from": {"type": "string"}, "day": {"type": "string"}, "cars": {"type": "integer"}},
        "required": ["from"],
    },
}
RESULT = '{"ferries": ["07:15", "19:40"]}'

GLAIVE = {
    "system": "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
    + json.dumps(FERRY, indent=4)
    + "\n\n"
    + json.dumps({"name": "now", "description": "The time", "parameters": {}}),
    "chat": (
        "USER: Is there a ferry from Bergen?\n\n\nASSISTANT: One moment. <functioncall> "
        '{"name": "find_ferry", "arguments": \'{"from": "Bergen", "day": "today\\\'s"}\'} <|endoftext|>\n\n\n'
        f"FUNCTION RESPONSE: {RESULT}\n\n\nASSISTANT: At 07:15 and 19:40. <|endoftext|>\n\n\n"
        "USER: Thanks: USER: is fine in here.\n\n\nASSISTANT: You are welcome! <|endoftext|>"
    ),
}
XLAM = {
    "id": 7,
    "query": "Ferries from Bergen and Oslo, with 2 cars",
    "tools": json.dumps(
        [{"name": "find_ferry", "description": "Ferries", "parameters": {
            "from": {"description": "A town", "type": "str"},
            "cars": {"description": "How many", "type": "int, optional", "default": 0},
            "days": {"description": "Days", "type": "List[str]", "default": "[]"},
        }}]
    ),
    "answers": json.dumps([{"name": "find_ferry", "arguments": {"from": t, "cars": 2}} for t in ("Bergen", "Oslo")]),
}  # fmt: skip
HERMES = {
    "id": "1",
    "conversations": [
        {"from": "system", "value": f"You may call functions. <tools>{json.dumps([{'type': 'function', 'function': FERRY}])}</tools>"},
        {"from": "human", "value": "Ferries?"},
        {"from": "gpt", "value": "Let me see.\n<tool_call>\n{'arguments': {'from': 'Bergen'}, 'name': 'find_ferry'}\n</tool_call>"},
        {"from": "tool", "value": f"<tool_response>\n{RESULT}\n</tool_response>"},
        {"from": "gpt", "value": "At 07:15."},
    ],
}  # fmt: skip
TOOLACE = {
    "system": "You compose functions. Here is a list of functions in JSON format that you can invoke:\n"
    + json.dumps(
        [
            {"name": "Find Ferry", "description": "Ferries", "required": None,
             "parameters": {"type": "dict", "properties": {"from": {"type": "string"}, "at": {"type": "float"}}, "required": ["from"]}},
        ]
    )
    + ". \nShould you decide to return the function call(s). Put it in the format of [func1(a=1)]\n",
    "conversations": [
        {"from": "user", "value": "Ferries, please"},
        {"from": "assistant", "value": '[Find Ferry(from="Bergen, (north) [1]", at=7.5), Find Ferry(from="O\'slo", tags=["a", {"b": true}])]'},
        {"from": "tool", "value": '[{"name": "Find Ferry", "results": {}}]'},
        {"from": "assistant", "value": "None [today]."},
    ],
}  # fmt: skip
APIGEN = {
    "system": "Be kind to travellers.",
    "tools": json.dumps([FERRY]),
    "conversations": [
        {"from": "human", "value": "Ferries?"},
        {"from": "function_call", "value": json.dumps({"name": "find_ferry", "arguments": {"from": "Bergen"}})},
        {"from": "observation", "value": RESULT},
        {"from": "gpt", "value": "At 07:15."},
    ],
}
WHEN2CALL = {
    "tools": [json.dumps({**FERRY, "parameters": {**FERRY["parameters"], "type": "dict"}})],  # type: ignore[dict-item]
    "messages": [
        {"role": "user", "content": "Ferries?"},
        {
            "role": "assistant",
            "content": '<TOOLCALL>[{"name": "find_ferry", "arguments": {"from": "Bergen"}}]</TOOLCALL>',
        },
    ],
}
ROWS = {
    "glaive": GLAIVE,
    "xlam": XLAM,
    "hermes": HERMES,
    "toolace": TOOLACE,
    "apigen_mt": APIGEN,
    "when2call": WHEN2CALL,
}


def read(style: str, row: Any = None) -> tuple[list[Any], list[Any]]:
    known = sets.TOOL_SETS[style]
    transform = chat_transform(known.style, parse_text_calls=known.options.get("parse_text_calls", False))
    sample = transform(known.adapt(ROWS[style] if row is None else row))
    validate_messages(sample["messages"], sample.get("tools"))
    return sample["messages"], sample.get("tools", [])


def said(messages: list[Any]) -> list[tuple[str, str, list[tuple[str, Any]]]]:
    return [(m.role, m.text_content, [(c.name, c.arguments) for c in m.tool_calls or []]) for m in messages]


def test_glaive() -> None:
    messages, tools = read("glaive")
    assert said(messages) == [
        ("user", "Is there a ferry from Bergen?", []),
        ("assistant", "One moment.", [("find_ferry", {"from": "Bergen", "day": "today's"})]),
        ("tool", RESULT, []),
        ("assistant", "At 07:15 and 19:40.", []),
        ("user", "Thanks: USER: is fine in here.", []),
        ("assistant", "You are welcome!", []),
    ]
    assert tools == [FERRY, {"name": "now", "description": "The time", "parameters": {}}]


def test_glaive_without_functions_keeps_its_prompt() -> None:
    row = {
        "system": "SYSTEM: You are helpful, with no access to functions.",
        "chat": "USER: Hi\n\nASSISTANT: Hello <|endoftext|>",
    }
    messages, tools = read("glaive", row)
    assert said(messages)[0] == ("system", "You are helpful, with no access to functions.", [])
    assert len(messages) == 3 and tools == []


def test_xlam() -> None:
    messages, tools = read("xlam")
    calls = [("find_ferry", {"from": town, "cars": 2}) for town in ("Bergen", "Oslo")]
    assert said(messages) == [("user", XLAM["query"], []), ("assistant", "", calls)]
    assert tools[0]["parameters"] == {
        "type": "object",
        "properties": {
            "from": {"description": "A town", "type": "string"},
            "cars": {"description": "How many", "type": "integer", "default": 0},
            "days": {"description": "Days", "type": "array", "items": {"type": "string"}, "default": "[]"},
        },
        "required": ["from"],
    }


def test_hermes() -> None:
    messages, tools = read("hermes")
    assert said(messages) == [
        ("user", "Ferries?", []),
        ("assistant", "Let me see.", [("find_ferry", {"from": "Bergen"})]),
        ("tool", RESULT, []),
        ("assistant", "At 07:15.", []),
    ]
    assert tools == [{"type": "function", "function": FERRY}]


def test_toolace() -> None:
    messages, tools = read("toolace")
    assert said(messages) == [
        ("user", "Ferries, please", []),
        ("assistant", "", [
            ("Find_Ferry", {"from": "Bergen, (north) [1]", "at": 7.5}),
            ("Find_Ferry", {"from": "O'slo", "tags": ["a", {"b": True}]}),
        ]),
        ("tool", '[{"name": "Find Ferry", "results": {}}]', []),
        ("assistant", "None [today].", []),
    ]  # fmt: skip
    assert tools == [
        {
            "name": "Find_Ferry",
            "description": "Ferries",
            "parameters": {
                "type": "object",
                "properties": {"from": {"type": "string"}, "at": {"type": "number"}},
                "required": ["from"],
            },
        }
    ]


def test_apigen_mt() -> None:
    messages, tools = read("apigen_mt")
    assert said(messages) == [
        ("system", "Be kind to travellers.", []),
        ("user", "Ferries?", []),
        ("assistant", "", [("find_ferry", {"from": "Bergen"})]),
        ("tool", RESULT, []),
        ("assistant", "At 07:15.", []),
    ]
    assert tools == [FERRY]


def test_when2call() -> None:
    messages, tools = read("when2call")
    assert said(messages)[1] == ("assistant", "", [("find_ferry", {"from": "Bergen"})])
    assert tools == [FERRY]


@pytest.mark.parametrize(
    ("style", "change", "message"),
    [
        ("glaive", {"chat": "Hello"}, "must begin with USER: or ASSISTANT:"),
        (
            "glaive",
            {"chat": 'USER: x\n\nASSISTANT: <functioncall> {"name": "f", "arguments": \'{a}\'}'},
            "the call of 'f'",
        ),
        ("glaive", {"system": 'SYSTEM: - {"name": '}, "Column 'system': a tool is not valid JSON"),
        ("xlam", {"answers": None}, "Column 'answers' holds NoneType"),
        ("toolace", {"system": "none"}, "has no list of functions"),
        (
            "when2call",
            {"messages": [{"role": "assistant", "content": "<TOOLCALL>[{</TOOLCALL>"}]},
            "a <TOOLCALL>: not valid JSON",
        ),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_where(style: str, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(style, {**ROWS[style], **change})


@pytest.mark.parametrize("style", sets.TOOL_SETS)
def test_each_set_becomes_samples_and_streams(style: str, write_rows: Callable[..., str], tokenizer: Any) -> None:
    path = write_rows([ROWS[style]])
    fixed = tool_calling_dataset(tokenizer, path, style)
    streamed = tool_calling_dataset(tokenizer, path, style, streaming=True, repeat=False)
    assert list(streamed) == [fixed[0]]
    assert any(label != -100 for label in fixed[0]["labels"])


def test_own_rows_and_wrong_options(write_rows: Callable[..., str], tokenizer: Any) -> None:
    row = {"chat": APIGEN["conversations"], "functions": APIGEN["tools"]}
    data = tool_calling_dataset(
        tokenizer, write_rows([row]), "sharegpt", conversation_column="chat", tools_column="functions"
    )
    assert len(data[0]["tokens"]) > 100
    for options, message in (
        ({"style": "alpaca"}, "Unsupported style: 'alpaca'"),
        ({"style": "openai"}, "has no source of its own"),
        ({"style": "xlam", "conversation_column": "x"}, "knows its columns"),
    ):
        with pytest.raises(ValueError, match=message):
            tool_calling_dataset(tokenizer, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("str, optional", {"type": "string"}),
        ("Optional[float]", {"type": "number"}),
        ("List[Tuple[int, int]]", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
        ("List[Union[int, float]]", {"type": "array"}),
        ("Dict[str, int]", {"type": "object"}),
        ("Union[int, str]", {}),
        ("Callable[[float], float]", {}),
    ],
)
def test_python_types_become_those_of_json_schema_and_no_wrong_ones(kind: str, schema: dict[str, Any]) -> None:
    assert sets._typed(kind) == schema
