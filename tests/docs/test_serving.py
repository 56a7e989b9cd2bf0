"""The table of vLLM's parsers in docs/tool_calls.md: it names every format with calls, and vLLM reads what the format writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from torchtune.data import Message, ToolCall
from torchtune.data.formats import ChatFormat, get_format, list_formats

PAGE = Path(__file__).parents[2] / "docs" / "tool_calls.md"
#: Their parsers need a vocabulary from the network.
NOT_RUN = {"gpt_oss"}
#: What templates have no place for.
REFUSED = {
    **dict.fromkeys(("llama3_1", "llama3_2", "llama3_3"), "two calls"),
    **dict.fromkeys(("mistral_v3", "mistral_v3_tekken"), "text beside a call"),
}
#: The page says that vLLM misreads it.
NOT_READ = {"mistral_v11"}
WHERE = {
    "type": "object",
    "properties": {"lat": {"type": "number"}, "tags": {"type": "array", "items": {"type": "string"}}},
}
PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}, "metric": {"type": "boolean"}, "where": WHERE}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather.",
            "parameters": {"type": "object", "properties": PROPERTIES, "required": ["city"]},
        },
    }
]
USER = Message("user", "Weather?")


def call(number: int, **arguments: Any) -> ToolCall:
    return ToolCall("get_weather", arguments, f"functions.get_weather:{number}")


TYPED = {"city": "Oslo", "days": 3, "metric": True, "where": {"lat": 59.9, "tags": ["a", "b"]}}
ODD = {"city": 'Bérgen "x"\n<b>', "days": -1}
ANSWERS = {
    "typed values": Message("assistant", "", tool_calls=[ToolCall("get_weather", TYPED, "abc123XYZ")]),
    "odd characters": Message("assistant", "", tool_calls=[ToolCall("get_weather", ODD, "abc123XYZ")]),
    "two calls": Message("assistant", "", tool_calls=[call(0, **TYPED), call(1, **ODD)]),
    "text beside a call": Message("assistant", "One moment.", tool_calls=[call(0, city="Oslo")]),
    "a thought": Message("assistant", "", tool_calls=[call(0, city="Oslo")], reasoning_content="I look it up."),
}


class Row(NamedTuple):
    name: str
    options: dict[str, str]
    parser: str
    reasoning: str
    one_call: bool


def rows() -> Iterator[Row]:
    """The table's rows, one a format."""
    for line in re.findall(r"^\| (?:`|all).*\|$", PAGE.read_text(encoding="utf-8").partition("## Serving")[2], re.M):
        formats, parser, reasoning = (cell.strip() for cell in line.strip("|").split("|"))
        names, options = re.findall(r"`(\w+)`", formats), {}
        if formats.startswith("all"):
            names = [name for name in list_formats() if "tool_convention" in get_format(name).options]
            options = {"tool_convention": "hermes"}
        for name in names:
            yield Row(name, options, parser.strip("`"), reasoning.strip("`"), "one call a message" in formats)


def test_every_format_with_calls_has_its_parser() -> None:
    named = {row.name for row in rows()}
    assert named | NOT_READ == set(list_formats()), "formats without a row, or rows without a format"


def tokenizer(fmt: ChatFormat) -> Any:
    """A vocabulary of bytes and the tokens that parsers look for."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    known = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|tool_call|>", "<|python_tag|>", "[TOOL_CALLS]")
    more = ("[THINK]", "[/THINK]", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    tokens = dict.fromkeys([*fmt.controls, *known, *more])
    raw.add_special_tokens([AddedToken(token, special=token in fmt.controls, normalized=False) for token in tokens])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=fmt.stop[0])


def read_by_vllm(row: Row, fmt: ChatFormat, text: str) -> tuple[str, list[tuple[str, Any]]]:
    """The thought and the calls that the row's parsers find in a model's output."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    vocabulary, thought = tokenizer(fmt), None
    body = {"model": "m", "messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS, "tool_choice": "auto"}
    request = ChatCompletionRequest(**body)
    if row.reasoning:
        thought, text = ReasoningParserManager.get_reasoning_parser(row.reasoning)(vocabulary).extract_reasoning(
            text, request
        )
    parser = ToolParserManager.get_tool_parser(row.parser)(vocabulary, request.tools)
    calls = parser.extract_tool_calls(text, request).tool_calls
    return (thought or "").strip(), [(made.function.name, json.loads(made.function.arguments)) for made in calls]


def test_vllm_reads_back_what_each_format_writes() -> None:
    pytest.importorskip("vllm.tool_parsers", reason="needs vLLM")
    problems = []
    for row in rows():
        fmt = get_format(row.name, **row.options)
        ids = {"call_ids": "derive"} if "call_ids" in fmt.options else {}
        for case, answer in ANSWERS.items():
            one = row.one_call and case == "two calls"
            if one or row.name in NOT_RUN or REFUSED.get(row.name) == case:
                continue
            sampled = [segment.text for segment in fmt.render([USER, answer], TOOLS, **ids) if segment.sampled]
            while sampled and sampled[-1] in fmt.stop:
                sampled.pop()
            made = [(call.name, call.arguments) for call in answer.tool_calls or []]
            expected = (answer.reasoning_content or "") if row.reasoning else "", made
            found = read_by_vllm(row, fmt, "".join(sampled))
            if found != expected:
                problems.append(f"{row.name}, {case}: {found}")
    assert not problems, "\n".join(problems)
