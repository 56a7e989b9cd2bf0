"""The check and training agree on which rows are right, on rows damaged at random."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchtune.data import Message, OpenAIToMessages, ShareGPTToMessages, ToolCall, check_rows, validate_messages
from torchtune.data._validate import iter_problems
from torchtune.data.formats import get_format

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": PARAMETERS}}]
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
OPENAI = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "u"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 1},
        {"role": "tool", "tool_call_id": "a", "name": "weather", "content": "7"},
        {"role": "assistant", "content": "done", "reasoning_content": "so"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "yes"},
    ],
    "tools": TOOLS,
}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "u"},
        {"from": "gpt", "value": "let me see"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": "7"},
        {"from": "gpt", "value": "done"},
    ],
    "tools": json.dumps(TOOLS),
}
ODD = [
    *(None, "", 0, -1, 1.5, True, [], {}, "x", "{'a': 1}", '{"a":', [1], {"type": "x"}, "user", "assistant", "tool"),
    *("function_call", float("nan"), 10**30, "\ud800", [[{}]], {"function": {"name": "f"}}, {"role": "user"}),
]
KEYS = ["role", "content", "tool_calls", "name", "x", "tool_call_id", "function_call", "weight", "train"]


def damaged(row: Any, rng: random.Random) -> Any:
    """The row with one to three values changed, dropped, doubled or added."""
    row = copy.deepcopy(row)
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(list(places(row)))
        what = rng.random()
        if what < 0.5:
            holder[key] = copy.deepcopy(rng.choice(ODD))
        elif what < 0.7:
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(rng.choice(holder)))
        else:
            holder[rng.choice(KEYS)] = copy.deepcopy(rng.choice(ODD))
        if not row:
            return row
    return row


def places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


@pytest.mark.parametrize("name", ["llama3_1", "qwen2_5", "mistral_v7"])
@pytest.mark.parametrize("whole", [OPENAI, SHAREGPT], ids=["openai", "sharegpt"])
def test_what_training_refuses_is_an_error_and_nothing_crashes(name: str, whole: dict[str, Any]) -> None:
    rng, chat_format = random.Random(7), get_format(name)
    refused = 0
    for _ in range(300):
        row = damaged(whole, rng)
        try:
            sample = (OpenAIToMessages() if "messages" in row else ShareGPTToMessages())(row)
            validate_messages(sample["messages"], sample.get("tools"))
            chat_format.render(sample["messages"], sample.get("tools"))
            trains = True
        except Exception:
            trains = False
        errors = check_rows([row], model=name).errors
        assert trains or errors, row
        refused += not trains
    assert refused > 50


ROLES = st.sampled_from(["system", "user", "assistant", "tool", "ipython", "narrator"])
IDS = st.sampled_from(["a", "b", None])


@st.composite
def messages(draw: st.DrawFn) -> list[Message]:
    """Messages in any order, right or wrong."""
    made = []
    for _ in range(draw(st.integers(0, 7))):
        role: Any = draw(ROLES)
        ids = draw(st.lists(IDS, max_size=2)) if role == "assistant" else []
        calls = [ToolCall(draw(st.sampled_from(["f", "g"])), {}, id) for id in ids]
        made.append(Message(role, "x", tool_calls=calls or None, tool_call_id=draw(IDS) if role == "tool" else None))
    return made


@given(messages(), st.sampled_from([None, [{"name": "f"}]]), st.booleans())
def test_validation_raises_the_first_of_all_problems(conversation: list[Message], tools: Any, inference: bool) -> None:
    problems = list(iter_problems(conversation, tools, inference=inference))
    try:
        validate_messages(conversation, tools, inference=inference)
    except ValueError as error:
        assert str(error) == problems[0].text
    else:
        assert problems == []


@given(st.data())
def test_a_message_that_cannot_be_read_is_no_fault_of_those_beside_it(data: st.DataObject) -> None:
    conversation = [Message("system", "s")] if data.draw(st.booleans()) else []
    for turn in range(data.draw(st.integers(1, 3))):
        conversation.append(Message("user", "u"))
        for step in range(data.draw(st.integers(0, 2))):
            ids = [f"{turn}{step}{k}" for k in range(data.draw(st.integers(1, 3)))]
            for part in data.draw(st.sampled_from([[ids], [[id] for id in ids]])):
                conversation.append(Message("assistant", "", tool_calls=[ToolCall("f", {}, id) for id in part]))
            answered = data.draw(st.permutations(ids))
            conversation += [Message("tool", "r", tool_call_id=id) for id in answered]
        conversation.append(Message("assistant", "a"))
    assert list(iter_problems(conversation, [{"name": "f"}])) == []
    unread: list[Message | None] = list(conversation)
    for at in data.draw(st.sets(st.integers(0, len(conversation) - 1), min_size=1, max_size=3)):
        unread[at] = None
    assert list(iter_problems(unread, [{"name": "f"}])) == []
