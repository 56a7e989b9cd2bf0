"""validate_messages: each legal flow is accepted, each illegal one refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchtune.data import Message, ToolCall, validate_messages

TOOLS = [{"type": "function", "function": {"name": "f"}}, {"name": "g"}]
SYSTEM, USER, TEXT = Message("system", "s"), Message("user", "u"), Message("assistant", "a")
EMPTY, TEXT_CALL = Message("assistant", ""), Message("assistant", "f(1)", ipython=True, eot=False)


def calls(*ids: str | None, name: str = "f", content: str = "") -> Message:
    return Message("assistant", content, ipython=True, tool_calls=[ToolCall(name, {"x": 1}, id) for id in ids])


def result(id: str | None = None, role: Any = "tool") -> Message:
    return Message(role, "r", eot=False, tool_call_id=id)


LEGAL = {
    "one turn": [USER, TEXT],
    "system first": [SYSTEM, USER, TEXT],
    "several turns": [SYSTEM, USER, TEXT, USER, TEXT],
    "ends in a user message": [USER, TEXT, USER],
    "empty assistant message": [USER, EMPTY],
    "call, result, answer": [USER, calls("a"), result("a"), TEXT],
    "calls and results without ids": [USER, calls(None, None), result(), result(), TEXT],
    "results in any order": [USER, calls("a", "b", "c"), result("c"), result("a"), result("b"), TEXT],
    "both tool roles": [USER, calls("a", "b"), result("a", "ipython"), result("b"), TEXT],
    "chain": [USER, calls("a"), result("a"), calls("b"), result("b"), TEXT],
    "an id used again in a later round": [USER, calls("a"), result("a"), calls("a"), result("a"), TEXT],
    "text beside a call": [USER, calls("a", content="Let me see."), result("a"), TEXT],
    "text, then the call, as two messages": [USER, TEXT, calls("a"), result("a"), TEXT],
    "parallel calls as two messages": [USER, calls("a"), calls("b"), result("b"), result("a"), TEXT],
    "two answers after a result": [USER, calls("a"), result("a"), TEXT, TEXT],
    "fewer results than calls": [USER, calls("a", "b"), result("b"), TEXT],
    "call without a result": [USER, calls("a"), USER, TEXT],
    "user after a result": [USER, calls("a"), result("a"), USER, TEXT],
    "ends in a call": [USER, calls("a")],
    "ends in a result": [USER, calls("a"), result("a")],
    "text call": [USER, TEXT_CALL, result(), TEXT],
    "text call with several results": [USER, TEXT_CALL, result(None, "ipython"), result("b"), TEXT],
    "ends in a text call": [USER, TEXT_CALL],
}


@pytest.mark.parametrize("flow", LEGAL)
@pytest.mark.parametrize("inference", [False, True])
def test_legal_flows_are_accepted(flow: str, inference: bool) -> None:
    validate_messages(LEGAL[flow], inference=inference)
    validate_messages(LEGAL[flow], TOOLS, inference=inference)


def test_one_message_is_enough_for_inference_only() -> None:
    validate_messages([USER], inference=True)
    with pytest.raises(ValueError, match="Messages must be at least length 2, but got 1 messages"):
        validate_messages([USER])
    with pytest.raises(ValueError, match="Messages must be at least length 1, but got 0 messages"):
        validate_messages([], inference=True)


ILLEGAL = {
    "system late": ([USER, SYSTEM, TEXT], "System message at index 1 in messages, but system messages must come first"),
    "two systems": ([SYSTEM, SYSTEM, USER, TEXT], "System message at index 1 in messages"),
    "two users": ([USER, USER, TEXT], "Two consecutive user messages at index 1 and 0 in messages"),
    "assistant first": (
        [TEXT, USER],
        "Assistant message before expected user, tool or ipython message at index 0 in messages; it follows the start",
    ),
    "assistant after system": ([SYSTEM, TEXT], "Assistant message before expected .* at index 1 .* of role system"),
    "two assistants in a plain conversation": ([USER, TEXT, TEXT], "Assistant message before expected .* at index 2"),
    "result first": ([result(), TEXT], "Tool or ipython message at index 0 must follow an ipython message"),
    "result after user": ([USER, result()], "Tool or ipython message at index 1 must follow .* role tool .* role user"),
    "result after text": (
        [USER, TEXT, result(None, "ipython")],
        "Tool or ipython message at index 2 must follow an ipython message.* role ipython .* of role assistant",
    ),
    "more results than calls": (
        [USER, calls(None), result(), result()],
        "More results than calls: the tool message at index 3 in messages is result 2 of 1 calls",
    ),
    "unknown id": (
        [USER, calls("a"), result("b")],
        r"Unknown tool_call_id 'b' in the tool message at index 2.*\['a'\]",
    ),
    "id of an earlier round": (
        [USER, calls("a"), result("a"), calls("b"), result("a")],
        "Unknown tool_call_id 'a' in the tool message at index 4",
    ),
    "repeated id": ([USER, calls("a", "b"), result("a"), result("a")], "Repeated tool_call_id 'a' in .* index 3"),
    "two calls of one id": (
        [USER, calls("a", "a")],
        "Call 1 of the assistant message at index 1 .* repeats the id 'a'",
    ),
    "undeclared tool": (
        [USER, calls("a", name="h")],
        r"Call 0 of the assistant message at index 1 in messages is to 'h', which is not in tools; .* \['f', 'g'\]",
    ),
    "unknown role": ([USER, Message("narrator", "x")], "Unknown role 'narrator' at index 1"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("flow", ILLEGAL)
def test_illegal_flows_are_refused_with_index_and_role(flow: str) -> None:
    messages, why = ILLEGAL[flow]
    tools = TOOLS if flow == "undeclared tool" else None
    for inference in (False, True):
        with pytest.raises(ValueError, match=why):
            validate_messages(messages, tools, inference=inference)


@pytest.mark.parametrize("arguments", [[1], "x", '{"x": 1}', None, 3])
def test_arguments_that_are_no_object_are_refused(arguments: Any) -> None:
    message = Message("assistant", "", tool_calls=[ToolCall("f", arguments)])
    with pytest.raises(ValueError, match="Call 0 of the assistant message at index 1 .* must have an object"):
        validate_messages([USER, message])


def test_tools_that_are_empty_declare_nothing_and_absent_ones_are_not_checked() -> None:
    validate_messages([USER, calls("a", name="h")], None)
    with pytest.raises(ValueError, match="'h', which is not in tools"):
        validate_messages([USER, calls("a", name="h")], [])


def test_builtin_tools_may_be_called_without_being_declared() -> None:
    validate_messages([USER, calls("a", name="brave_search")], TOOLS, builtin_tools=["brave_search"])


def test_runs_of_assistant_messages_by_option() -> None:
    validate_messages([USER, TEXT, TEXT], assistant_runs=True)
    with pytest.raises(ValueError, match="Assistant message before expected"):
        validate_messages(LEGAL["two answers after a result"], assistant_runs=False)


@given(st.data())
def test_every_conversation_made_by_the_rules_is_accepted(data: st.DataObject) -> None:
    messages = [SYSTEM] if data.draw(st.booleans()) else []
    for turn in range(data.draw(st.integers(1, 3))):
        messages.append(USER)
        for step in range(data.draw(st.integers(0, 3))):
            ids = [f"{turn}{step}{k}" for k in range(data.draw(st.integers(1, 3)))]
            messages.append(calls(*ids))
            answered = data.draw(st.permutations(ids))[: data.draw(st.integers(0, len(ids)))]
            messages += [result(id, data.draw(st.sampled_from(["tool", "ipython"]))) for id in answered]
        messages.append(TEXT)
    validate_messages(messages, TOOLS, assistant_runs=True)
