"""Tests of the way from a row to tokens and labels, and of chat rows with tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from torchtune.data import InputOutputToMessages, Message
from torchtune.datasets import PackedDataset, SFTDataset, SFTTransform, chat_dataset, instruct_dataset

TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}},
    },
    {"type": "function", "function": {"name": "now", "parameters": {"properties": {"zone": {"type": "integer"}}}}},
]
CALLS = [("get_weather", {"city": "Oslo"}), ("now", {"zone": 2})]


def openai_row(**changes: Any) -> dict[str, Any]:
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": n, "arguments": a}} for i, (n, a) in enumerate(CALLS)
    ]
    messages = [
        {"role": "user", "content": "Weather and time?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c0", "content": "rain"},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
        {"role": "assistant", "content": "Rain, noon."},
    ]
    return {"messages": messages, "tools": TOOLS, **changes}


def sharegpt_row() -> dict[str, Any]:
    calls = [{"name": name, "arguments": arguments} for name, arguments in CALLS]
    turns = [
        ("human", "Weather and time?"),
        ("function_call", json.dumps(calls)),
        ("observation", "rain"),
        ("observation", "12:00"),
        ("gpt", "Rain, noon."),
    ]
    return {"conversations": [{"from": who, "value": text} for who, text in turns], "tools": json.dumps(TOOLS)}


def chat(tokenizer: Any, path: str, style: str = "openai", **options: Any) -> Any:
    column = {"openai": "messages", "sharegpt": "conversations"}[style]
    return chat_dataset(
        tokenizer, source="json", data_files=path, conversation_column=column, conversation_style=style, **options
    )


def test_labels_are_the_next_tokens_unless_masked() -> None:
    transform = SFTTransform(model_transform=lambda row: {"tokens": [5, 6, 7, 8], "mask": [True, True, False, True]})
    assert transform({}) == {"tokens": [5, 6, 7, 8], "mask": [True, True, False, True], "labels": [-100, 7, -100, -100]}


def test_other_keys_of_a_sample_are_kept_and_the_row_is_not_changed() -> None:
    def model_transform(row: Any) -> Any:
        row.pop("messages")
        return {**row, "tokens": [], "mask": []}

    row = {"messages": [], "encoder_input": 3}
    assert SFTTransform(model_transform=model_transform)(row) == {
        "encoder_input": 3,
        "tokens": [],
        "mask": [],
        "labels": [],
    }
    assert row == {"messages": [], "encoder_input": 3}


def test_one_of_the_transforms_is_needed() -> None:
    with pytest.raises(ValueError, match="At least one of message_transform or model_transform"):
        SFTTransform()
    assert SFTTransform(InputOutputToMessages())({"input": "a", "output": "b"})["messages"][1].text_content == "b"


def test_a_model_transform_without_tokens_is_named(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"returned the following keys: ids\. Must return 'tokens' and 'mask'"):
        SFTTransform(model_transform=lambda row: {"ids": []})({})


def test_openai_and_sharegpt_rows_of_one_conversation_give_the_same_tokens(
    tokenizer: Any, write_rows: Callable[..., str]
) -> None:
    strings = openai_row()
    strings["tools"] = json.dumps(TOOLS)
    for call in strings["messages"][1]["tool_calls"]:
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    openai = chat(tokenizer, write_rows([openai_row(), strings], "a.jsonl"))
    sharegpt = chat(tokenizer, write_rows([sharegpt_row()], "b.jsonl"), "sharegpt")
    text = bytes(token for token in openai[0]["tokens"] if token > 1).decode()
    assert '"name": "get_weather", "arguments": {"city": "Oslo"}' in text and "12:00" in text
    assert openai[0]["tokens"] == openai[1]["tokens"]
    without_ids = bytes(token for token in sharegpt[0]["tokens"] if token > 1).decode()
    assert without_ids == text.replace('"id": "c0", ', "").replace('"id": "c1", ', "")
    assert "tools" not in openai[0]


def test_rows_that_came_through_arrow_give_the_same_tokens(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    """Parquet keeps one struct for all rows, so that each call and schema has nulls where others have keys."""
    from datasets import Dataset

    rows = [openai_row(), openai_row(tools=TOOLS[::-1])]
    as_json = chat(tokenizer, write_rows(rows))
    path = write_rows("", "rows.parquet")
    Dataset.from_list(rows).to_parquet(path)
    as_parquet = chat_dataset(
        tokenizer,
        source="parquet",
        data_files=path,
        cache_dir=path + ".cache",
        conversation_column="messages",
        conversation_style="openai",
    )
    assert [as_parquet[i]["tokens"] for i in (0, 1)] == [as_json[i]["tokens"] for i in (0, 1)]


def test_tools_of_an_option_serve_rows_that_have_none(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    rows = [openai_row(), openai_row(tools=None), openai_row()]
    del rows[2]["tools"]
    tools_file = write_rows(json.dumps(TOOLS), "tools.json")
    for tools in (TOOLS, json.dumps(TOOLS), tools_file):
        ds = chat(tokenizer, write_rows(rows), tools=tools)
        assert ds[0]["tokens"] == ds[1]["tokens"] == ds[2]["tokens"]
    own = chat(tokenizer, write_rows([openai_row(functions=TOOLS, tools=None)], "own.jsonl"), tools_column="functions")
    assert own[0]["tokens"] == ds[0]["tokens"]


def test_wrong_tools_are_refused_when_the_dataset_is_made(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    path = write_rows([openai_row()])
    with pytest.raises(FileNotFoundError, match="tools: there is no file nothing.json"):
        chat(tokenizer, path, tools="nothing.json")
    with pytest.raises(ValueError, match="has no name"):
        chat(tokenizer, path, tools=[{"type": "function"}])
    with pytest.raises(ValueError, match="tools.json: not JSON"):
        chat(tokenizer, path, tools=write_rows("[", "tools.json"))


def test_an_error_names_file_row_and_message(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    bad = openai_row()
    bad["messages"][3]["tool_call_id"] = "c7"
    ds = chat(tokenizer, write_rows([openai_row(), bad, openai_row(tools=TOOLS[:1])], "data.jsonl"))
    assert ds[0]["tokens"]
    with pytest.raises(ValueError, match=r"^row 2 of data.jsonl: .*c7.*index 3"):
        ds[1]
    with pytest.raises(ValueError, match=r"^row 3 of data.jsonl: .*index 1.*'now'"):
        ds[2]


def test_builtin_tools_may_be_called_undeclared(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    path = write_rows([openai_row(tools=TOOLS[:1])])
    assert chat(tokenizer, path, builtin_tools=["now"])[0]["tokens"]


def test_an_unknown_style_is_refused(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="Unsupported conversation style: 'alpaca'; expected one of"):
        chat_dataset(tokenizer, source="json", conversation_column="a", conversation_style="alpaca")


def test_what_is_trained_follows_the_masking(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    path = write_rows(
        [{"messages": [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, "abcd", strict=True)]}]
    )

    def trained(**options: Any) -> str:
        return bytes(t for t in chat(tokenizer, path, **options)[0]["labels"] if t > 1).decode()

    assert trained() == "bd"
    assert trained(train_on_input=True) == "abcd"
    assert trained(masking_strategy="train_on_last") == "d"
    assert trained(new_system_prompt="s", train_on_input=True) == "sabcd"[1:]


def test_filters_and_slices_reach_the_rows(tokenizer: Any, write_rows: Callable[..., str]) -> None:
    path = write_rows([{"input": str(i), "output": "x" * i} for i in range(10)])
    options = {"source": "json", "data_files": path, "split": "train[5:]"}
    ds = instruct_dataset(tokenizer, filter_fn=lambda row: int(row["input"]) % 2 == 0, **options)
    assert len(ds) == 2 and bytes(ds[0]["tokens"][1:2]) == b"6"
    sft = SFTDataset(
        message_transform=InputOutputToMessages(),
        model_transform=tokenizer,
        filter_fn=lambda row, i: i == 1,
        filter_kwargs={"with_indices": True},
        **options,
    )
    assert len(sft) == 1 and bytes(sft[0]["tokens"][1:2]) == b"6"


def test_packing_needs_a_length(tokenizer: Any, short_tokenizer: Any, write_rows: Callable[..., str]) -> None:
    options = {"source": "json", "data_files": write_rows([{"input": "ab", "output": "c"}] * 4), "packed": True}
    with pytest.raises(ValueError, match="requires a max_seq_len to be set on the tokenizer"):
        instruct_dataset(tokenizer, **options)
    packs = instruct_dataset(short_tokenizer, **options)
    assert isinstance(packs, PackedDataset)
    assert packs[0]["seq_lens"].tolist() == [5, 5, 5, 1]


def test_messages_as_a_row_need_no_message_transform(tokenizer: Any) -> None:
    messages = [Message("user", "a", masked=True), Message("assistant", "b")]
    assert SFTTransform(model_transform=tokenizer)({"messages": messages})["labels"] == [-100, 98, 1, -100]
