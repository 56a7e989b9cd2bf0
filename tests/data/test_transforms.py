"""The transforms on plain rows, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchtune.data import (
    AlpacaToMessages,
    ChosenRejectedToMessages,
    InputOutputToMessages,
    Message,
    OpenAIToMessages,
    ShareGPTToMessages,
)


def told(messages: list[Message]) -> list[tuple[str, str, bool]]:
    return [(m.role, m.text_content, m.masked) for m in messages]


CHAT = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
ROWS = {
    OpenAIToMessages: {"messages": CHAT},
    ShareGPTToMessages: {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
    InputOutputToMessages: {"input": "u", "output": "a"},
}


@pytest.mark.parametrize("transform", ROWS)
@pytest.mark.parametrize(
    ("options", "user_masked"),
    [
        ({}, True),
        ({"train_on_input": True}, False),
        ({"train_on_input": False, "masking_strategy": "train_on_all"}, True),
        ({"masking_strategy": "train_on_all"}, False),
        ({"masking_strategy": "train_on_last"}, True),
    ],
)
def test_plain_rows(transform: Any, options: dict, user_masked: bool) -> None:
    sample = transform(**options)(ROWS[transform])
    assert sample == {"messages": sample["messages"]}
    assert told(sample["messages"]) == [("user", "u", user_masked), ("assistant", "a", False)]


@pytest.mark.parametrize("transform", ROWS)
def test_new_system_prompt_comes_first_and_is_masked(transform: Any) -> None:
    messages = transform(new_system_prompt="s", train_on_input=True)(ROWS[transform])["messages"]
    assert told(messages) == [("system", "s", True), ("user", "u", False), ("assistant", "a", False)]


@pytest.mark.parametrize(
    ("transform", "column_map", "missing"),
    [
        (OpenAIToMessages, {"x": "y"}, "messages"),
        (ShareGPTToMessages, {"x": "y"}, "conversations"),
        (InputOutputToMessages, {"output": "y"}, "input"),
        (InputOutputToMessages, {"input": "y"}, "output"),
        (AlpacaToMessages, {"input": "y", "output": "z"}, "instruction"),
        (AlpacaToMessages, {"instruction": "y"}, "output"),
        (ChosenRejectedToMessages, {"rejected": "y"}, "chosen"),
        (ChosenRejectedToMessages, {"chosen": "y"}, "rejected"),
    ],
)
def test_a_column_map_names_all_columns(transform: Any, column_map: dict, missing: str) -> None:
    with pytest.raises(ValueError, match=f"Expected a key of '{missing}'"):
        transform(column_map=column_map)


@pytest.mark.parametrize("transform", [*ROWS, AlpacaToMessages, ChosenRejectedToMessages])
def test_unknown_masking_strategy(transform: Any) -> None:
    with pytest.raises(ValueError, match="'some_invalid_strategy' is not a valid MaskingStrategy"):
        transform(masking_strategy="some_invalid_strategy")


def test_alpaca_prompt_with_and_without_input() -> None:
    row = {"instruction": "Sort {these}.", "input": "3, 1", "output": "1, 3"}
    messages = AlpacaToMessages()(row)["messages"]
    with_input = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort {these}.\n\n### Input:\n3, 1\n\n### Response:\n"
    )
    assert told(messages) == [("user", with_input, False), ("assistant", "1, 3", False)]
    without = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort {these}.\n\n### Response:\n"
    )
    for given in ("", None):
        assert AlpacaToMessages()({**row, "input": given})["messages"][0].text_content == without
    del row["input"]
    mapped = AlpacaToMessages(column_map={"instruction": "instruction", "output": "output"})(row)["messages"]
    assert mapped[0].text_content == without


def test_columns_must_hold_text() -> None:
    with pytest.raises(ValueError, match="Column 'output' must hold text, but found NoneType"):
        InputOutputToMessages()({"input": "u", "output": None})
    with pytest.raises(ValueError, match=r"no column 'output'; found \['input'\]"):
        InputOutputToMessages()({"input": "u"})


def test_preference_rows_with_a_prompt_of_their_own() -> None:
    row = {"prompt": [CHAT[0]], "chosen": [CHAT[1]], "rejected": [{"role": "assistant", "content": "b"}]}
    sample = ChosenRejectedToMessages()(row)
    assert told(sample["chosen"]) == [("user", "u", True), ("assistant", "a", False)]
    assert told(sample["rejected"]) == [("user", "u", True), ("assistant", "b", False)]
    whole = {"prompt": "u", "chosen": CHAT, "rejected": CHAT}
    assert len(ChosenRejectedToMessages()(whole)["chosen"]) == 2
    assert len(ChosenRejectedToMessages()({**whole, "prompt": [CHAT[0]]})["chosen"]) == 2


def png(path: Path) -> Path:
    image_module = pytest.importorskip("PIL.Image")
    image_module.new("RGB", (4, 2), (255, 0, 10)).save(path)
    return path


def test_input_output_with_an_image(tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    columns = {"input": "q", "output": "r", "image": "img"}
    transform = InputOutputToMessages(column_map=columns, image_dir=tmp_path)
    user = transform({"q": "What?", "r": "A cat.", "img": "a.png"})["messages"][0]
    assert [part["type"] for part in user.content] == ["image", "text"]
    assert user.get_media()[0].shape == (3, 2, 4)


def test_sharegpt_with_an_image(tmp_path: Path) -> None:
    image = object()
    row = {
        "conversations": [{"from": "human", "value": "See <image>?"}, {"from": "gpt", "value": "Yes."}],
        "image": image,
    }
    user = ShareGPTToMessages()(row)["messages"][0]
    assert user.content == [
        {"type": "text", "content": "See "},
        {"type": "image", "content": image},
        {"type": "text", "content": "?"},
    ]


def test_openai_with_an_image(tmp_path: Path) -> None:
    url = {"type": "image_url", "image_url": {"url": str(png(tmp_path / "a.png"))}}
    row = {"messages": [{"role": "user", "content": [url, {"type": "text", "text": "?"}]}, CHAT[1]]}
    user = OpenAIToMessages()(row)["messages"][0]
    assert user.get_media()[0].shape == (3, 2, 4) and user.text_content == "?"


@pytest.mark.parametrize("transform", [InputOutputToMessages, ShareGPTToMessages])
def test_an_image_folder_needs_an_image_column(transform: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Please specify an 'image' key in column_map"):
        transform(image_dir=tmp_path)
