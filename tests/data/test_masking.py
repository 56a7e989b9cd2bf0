"""Which messages are trained."""

from __future__ import annotations

import pytest

from torchtune.data import MaskingStrategy, Message, OpenAIToMessages, ToolCall, mask_messages


def conversation() -> list[Message]:
    return [
        Message("system", "s"),
        Message("user", "u"),
        Message("assistant", "", tool_calls=[ToolCall("f")]),
        Message("tool", "1"),
        Message("assistant", "a"),
        Message("user", "v"),
    ]


@pytest.mark.parametrize(
    ("strategy", "trained"),
    [
        ("train_on_all", [1, 2, 3, 4, 5]),
        ("train_on_assistant", [2, 4]),
        ("train_on_last", [4]),
        (MaskingStrategy.TRAIN_ON_ASSISTANT, [2, 4]),
    ],
)
def test_strategies(strategy: str, trained: list[int]) -> None:
    messages = conversation()
    mask_messages(messages, strategy)
    assert [i for i, m in enumerate(messages) if not m.masked] == trained


def test_unknown_strategy() -> None:
    with pytest.raises(ValueError, match="'some_invalid_strategy' is not a valid MaskingStrategy"):
        mask_messages(conversation(), "some_invalid_strategy")


def test_weight_and_train_of_a_row_mask_a_message_under_every_strategy() -> None:
    rows = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "bad", "weight": 0},
        {"role": "user", "content": "v"},
        {"role": "assistant", "content": "worse", "train": False},
        {"role": "user", "content": "w"},
        {"role": "assistant", "content": "good", "weight": 2.5, "train": True},
    ]
    for strategy, trained in (("train_on_all", [0, 2, 4, 5]), ("train_on_assistant", [5]), ("train_on_last", [5])):
        messages = OpenAIToMessages(masking_strategy=strategy)({"messages": rows})["messages"]
        assert [i for i, m in enumerate(messages) if not m.masked] == trained
        assert [m.weight for m in messages] == [None, 0, None, 0, None, 2.5]


@pytest.mark.parametrize(
    "bad", [{"weight": -1}, {"weight": "1"}, {"weight": float("nan")}, {"weight": True}, {"train": 1}]
)
def test_bad_weight_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="message 1 .*must be"):
        OpenAIToMessages()(
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", **bad}]}
        )
