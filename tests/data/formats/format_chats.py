"""Conversations for the property tests, and what is asked of them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from torchtune.data import Message, ToolCall
from torchtune.data.formats import ChatFormat, Segment

#: Text that is a control token, or a tag, in one family or another.
CONTROL_TEXTS = (
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<|start_header_id|>", "</s>", "<s>"),
    *("[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]", "[TOOL_RESULTS]", "<end_of_turn>", "<start_of_turn>", "<turn|>"),
    *("</tool_call>", "<tool_call>", "<tool_response>", "<|call|>", "<|end|>", "<|message|>", "<|return|>", '<|"|>'),
    *("<｜end▁of▁sentence｜>", "<｜tool▁call▁end｜>", "<|tool_call_end|>", "<|user|>", "<|observation|>", "<arg_key>"),
    *("</arg_value>", "<|endoftext|>", "<|end_of_text|>", "<bos>", "/nothink", "<|tool_calls_section_end|>"),
)

words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="{}[]<>|"), max_size=12
)
plain_text = st.builds(lambda a, b: f"{a} {b}".strip() or "ok", words, words)
nasty_text = st.lists(st.one_of(words, st.sampled_from(CONTROL_TEXTS)), min_size=1, max_size=4).map(
    lambda parts: " ".join(parts).strip() or "ok"
)
names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
keys = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,6}", fullmatch=True)
strings = st.one_of(
    words,
    nasty_text,
    st.sampled_from(["75001", "true", "null", "3.50", "", " padded ", "a\nb", 'say "hi"', "it's", "C:\\x"]),
)
leaves = st.one_of(strings, st.integers(-(10**9), 10**12), st.booleans(), st.none(), st.floats(-1e6, 1e6, width=32))
values = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)), max_leaves=5
)
arguments = st.dictionaries(keys, values, max_size=4)


@st.composite
def chats(draw: st.DrawFn, text: st.SearchStrategy[str] = plain_text, parallel: bool = True) -> tuple[list, list]:
    """A legal conversation with calls and results, and the tools it calls."""
    messages = [Message("system", draw(text))] if draw(st.booleans()) else []
    tools: dict[str, dict[str, Any]] = {}
    number = 0
    for _ in range(draw(st.integers(1, 2))):
        messages.append(Message("user", draw(text)))
        for _ in range(draw(st.integers(0, 2))):
            calls = []
            for _ in range(draw(st.integers(1, 2 if parallel else 1))):
                number += 1
                call = ToolCall(f"{draw(names)}_{number}", draw(arguments), f"id{number:07d}")
                tools[call.name] = schema_of(call)
                calls.append(call)
            messages.append(Message("assistant", "", tool_calls=calls, ipython=True))
            messages += [
                Message("tool", draw(text), tool_call_id=call.id, name=call.name, eot=False)
                for call in (draw(st.permutations(calls)))
            ]
        messages.append(Message("assistant", draw(plain_text)))
    return messages, list(tools.values())


def schema_of(call: ToolCall) -> dict[str, Any]:
    """A tool whose schema is that of one call's arguments."""
    properties = {key: {"type": kind_of(value), "description": "x"} for key, value in call.arguments.items()}
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": call.name, "description": "d", "parameters": parameters}}


def kind_of(value: Any) -> str:
    """The JSON type of a value."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def text_of(segments: list[Segment]) -> str:
    """The text of segments."""
    return "".join(segment.text for segment in segments)


def own(segments: list[Segment], index: int) -> list[Segment]:
    """What the model emits of one message."""
    return [s for s in segments if s.message_index == index and s.sampled]


def calls_of(calls: list[ToolCall] | None) -> list[tuple[str, str]]:
    """Calls as comparable values, types included."""
    return [(call.name, json.dumps(call.arguments, sort_keys=True)) for call in calls or []]


def one_call_a_message(fmt: ChatFormat) -> bool:
    """True for the families whose template takes one call in a message."""
    return fmt.name in {"llama3_1", "llama3_2", "llama3_3", "gpt_oss"}
