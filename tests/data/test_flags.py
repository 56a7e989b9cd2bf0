"""The ipython and eot flags."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from torchtune.data import Message, OpenAIToMessages, ToolCall
from torchtune.data._flags import set_flags


def flags(*messages: Message) -> list[tuple[str, bool, bool]]:
    set_flags(messages)
    return [(m.role, m.ipython, m.eot) for m in messages]


def test_eot_is_false_for_a_result_and_for_the_call_before_it() -> None:
    call = Message("assistant", "", tool_calls=[ToolCall("f")])
    answered = flags(Message("user", "u"), call, Message("tool", "1"), Message("tool", "2"), Message("assistant", "a"))
    assert answered == [
        ("user", False, True),
        ("assistant", True, False),
        ("tool", False, False),
        ("tool", False, False),
        ("assistant", False, True),
    ]


def test_a_call_without_a_result_ends_its_turn() -> None:
    assert flags(Message("user", "u"), Message("assistant", "", tool_calls=[ToolCall("f")]))[-1] == (
        "assistant",
        True,
        True,
    )


def test_text_before_an_ipython_result_is_a_call() -> None:
    assert flags(Message("user", "u"), Message("assistant", "f(1)"), Message("ipython", "2"))[1] == (
        "assistant",
        True,
        False,
    )


def test_text_call_in_a_row_is_marked() -> None:
    rows = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "f(x=1)"},
        {"role": "tool", "content": "42"},
    ]
    messages = OpenAIToMessages()({"messages": [*rows, {"role": "assistant", "content": "It is 42."}]})["messages"]
    assert [m.ipython for m in messages] == [False, True, False, False]
    assert [m.eot for m in messages] == [True, False, False, True]


@given(st.lists(st.sampled_from(["system", "user", "assistant", "call", "tool", "ipython"]), max_size=12))
def test_the_rule_holds_for_every_order_of_roles(roles: list[str]) -> None:
    messages = [
        Message("assistant", "", tool_calls=[ToolCall("f")]) if role == "call" else Message(role, "x") for role in roles
    ]
    set_flags(messages)
    for i, message in enumerate(messages):
        result_next = i + 1 < len(messages) and messages[i + 1].role in ("tool", "ipython")
        goes_on = message.role in ("tool", "ipython") or (message.role == "assistant" and result_next)
        assert message.eot is not goes_on
        assert message.ipython is (roles[i] == "call" or (message.role == "assistant" and result_next))
