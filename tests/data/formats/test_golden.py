"""Every format against text from the official templates: bytes, spans, prompts, and back again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from format_chats import calls_of, own, text_of
from format_golden import conversations, entries, golden_rows

from torchtune.data import OpenAIToMessages
from torchtune.data.formats import get_format

ENTRIES = entries()
IDS = [entry["golden"] for entry in ENTRIES]

#: The least share of rows that equal the official text; the rest loses something there, or raises.
LEAST_EQUAL = {"gemma2": 6, "llama3_hf": 11, "phi3": 11, "phi4": 11, "smollm2": 11, "gemma3": 11, "smollm3": 11}


def render(entry: dict[str, Any], row: dict[str, Any], upto: int | None = None, prompt: bool = False) -> list[Any]:
    """A row's messages and segments."""
    conversation = conversations()[row["id"]]
    sample = OpenAIToMessages()(conversation)
    options = {**entry["options"], **(conversation.get("template_kwargs") or {})}
    messages = sample["messages"][:upto]
    segments = get_format(entry["format"]).render(
        messages, sample.get("tools"), add_generation_prompt=prompt, **options
    )
    return [messages, segments]


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_text_equals_the_official_template(entry: dict[str, Any]) -> None:
    for row in golden_rows()[entry["golden"]]:
        if row["ours"] == "raises":
            with pytest.raises(ValueError, match=rf"Format {entry['format']}.*(message|user message|system)"):
                render(entry, row)
            continue
        text = text_of(render(entry, row)[1])
        if row["ours"] == "equal":
            assert text == row["text"], row["id"]
        else:
            assert text != row.get("text"), f"{row['id']} equals the official text by now"


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_most_rows_are_held_to_equality(entry: dict[str, Any]) -> None:
    golden = entry["golden"].removesuffix("_nothink")
    equal = sum(row["ours"] == "equal" for row in golden_rows()[entry["golden"]])
    assert equal >= LEAST_EQUAL.get(golden, 30)


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_sampled_segments_are_what_the_model_emits(entry: dict[str, Any]) -> None:
    for row in golden_rows()[entry["golden"]]:
        if row["ours"] != "equal" or "spans" not in row:
            continue
        at, ours = 0, ""
        for segment in render(entry, row)[1]:
            ours += ("x" if segment.sampled else " ") * len(segment.text)
            at += len(segment.text)
        theirs = [" "] * at
        for start, end in row["spans"]:
            theirs[start:end] = "x" * (end - start)
        assert ours == "".join(theirs), row["id"]


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_generation_prompt_equals_the_official_one(entry: dict[str, Any]) -> None:
    for row in golden_rows()[entry["golden"]]:
        if row["ours"] != "equal" or "prompt_text" not in row:
            continue
        roles = [message["role"] for message in conversations()[row["id"]]["messages"]]
        last = len(roles) - 1 - roles[::-1].index("assistant") if "assistant" in roles else len(roles)
        whole = text_of(render(entry, row, prompt=True)[1])
        before = text_of(render(entry, row, last, prompt=True)[1])
        assert row["prompt_text"] in (before, whole), row["id"]


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_parse_inverts_render_on_golden_rows(entry: dict[str, Any]) -> None:
    fmt = get_format(entry["format"])
    for row in golden_rows()[entry["golden"]]:
        if row["ours"] == "raises":
            continue
        messages, segments = render(entry, row)
        tools = conversations()[row["id"]].get("tools")
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            mine = own(segments, index)
            for output in (mine, text_of(mine)):
                parsed = fmt.parse(output, tools)
                assert calls_of(parsed.tool_calls) == calls_of(message.tool_calls), row["id"]
                assert parsed.unparsed == []
                if message.tool_calls and fmt.name in ("gemma4", "gpt_oss"):
                    continue  # these put the text beside a call elsewhere
                if "</think>" not in message.text_content:
                    assert parsed.content.strip() == message.text_content.strip(), row["id"]
                assert (
                    parsed.reasoning_content in (None, message.reasoning_content) or "<think>" in message.text_content
                )


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_lossless_rows_hold_every_call_result_and_text(entry: dict[str, Any]) -> None:
    """Where the official template drops something, ours has it."""
    for row in golden_rows()[entry["golden"]]:
        if row["ours"] != "lossless":
            continue
        messages, segments = render(entry, row)
        text = text_of(segments)
        for index, message in enumerate(messages):
            mine = text_of([s for s in segments if s.message_index == index])
            assert message.role not in ("assistant", "tool") or mine, row["id"]
            for call in message.tool_calls or []:
                assert call.name in mine
            for part in message.content:
                content = part["content"]
                if part["type"] == "json":
                    assert all(str(leaf) in mine for leaf in _leaves(content)), row["id"]
                elif message.role != "tool":
                    assert content.strip() in text, row["id"]
                else:
                    assert content.strip() in mine or json.dumps(content, ensure_ascii=False) in mine


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [leaf for inner in value for leaf in _leaves(inner)] if isinstance(value, list) else [value]


def test_control_tokens_of_qwen_stand_alone_even_in_the_system_block() -> None:
    row = next(row for row in golden_rows()["qwen2.5"] if row["id"] == "parallel2_1")
    entry = next(entry for entry in ENTRIES if entry["golden"] == "qwen2.5")
    special = [s.text for s in render(entry, row)[1] if s.special]
    assert special.count("<tool_call>") == 4  # two in the instructions, two calls
    assert "<tool_response>" not in special  # no token of Qwen 2.5
