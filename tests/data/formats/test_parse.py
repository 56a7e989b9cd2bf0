"""Model output, read back: types, damage, thoughts."""

from __future__ import annotations

import pytest
from format_chats import calls_of, own, schema_of, text_of

from torchtune.data import Message, ToolCall
from torchtune.data.formats import Segment, get_format, list_formats

TYPED = {"zip": "75001", "n": 7, "x": 0.5, "on": True, "none": None, "deep": {"é": ["ß", 1, "2"]}, "flag": "true"}
NATIVE = [name for name in list_formats() if get_format(name).native_tools]


def turn(fmt_name: str, message: Message, tools: list | None = None) -> list[Segment]:
    """What the model emits for a message."""
    fmt = get_format(fmt_name)
    return own(fmt.render([Message("user", "hi"), message], tools), 1)


@pytest.mark.parametrize("name", NATIVE)
def test_types_of_arguments_survive(name: str) -> None:
    call = ToolCall("f", TYPED, "abcdefghi")
    tools = [schema_of(call)]
    message = Message("assistant", "", tool_calls=[call], ipython=True)
    for output in (turn(name, message, tools), text_of(turn(name, message, tools))):
        parsed = get_format(name).parse(output, tools)
        assert parsed.tool_calls[0].arguments == TYPED
        assert [type(value) for value in parsed.tool_calls[0].arguments.values()].count(bool) == 1


@pytest.mark.parametrize(
    "name", ["chatml", "qwen2_5", "qwen3", "hermes", "llama3_1", "mistral_v3", "mistral_v7", "lfm2"]
)
def test_types_survive_without_schemas_where_the_syntax_has_them(name: str) -> None:
    message = Message("assistant", "", tool_calls=[ToolCall("f", TYPED, "abcdefghi")], ipython=True)
    assert get_format(name).parse(text_of(turn(name, message))).tool_calls[0].arguments == TYPED


@pytest.mark.parametrize(
    ("name", "output", "reason"),
    [
        ("qwen2_5", '<tool_call>\n{"name": "f", "arguments": {"a": 1', "cut off"),
        ("qwen2_5", '<tool_call>\n{"name": "f", "arguments": {"a": 1}}}\n</tool_call>', "expected </tool_call>"),
        ("qwen2_5", '<tool_call>\n{"name": "f", "arguments": "{}"}\n</tool_call>', "to be an object"),
        ("qwen2_5", '<tool_call>\n{"arguments": {}}\n</tool_call>', '"name"'),
        ("qwen2_5", "<tool_call>\nf(1)\n</tool_call>", "no valid JSON"),
        ("llama3_1", '{"name": "f", "parameters": {"a"', "cut off"),
        ("llama3_1", '<|python_tag|>brave_search.call(query="x', "closing parenthesis"),
        ("mistral_v3", '[TOOL_CALLS] [{"name": "f", "arguments": {}', "cut off"),
        ("mistral_v3", '[TOOL_CALLS] {"name": "f"}', "expected a JSON list"),
        ("mistral_v11", "[TOOL_CALLS]f{}", "[ARGS]"),
        ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=a>\n1\n", "not closed by </parameter>"),
        ("glm4_5", "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1", "not closed"),
        ("gemma4", '<|tool_call>call:f{a:<|"|>x', "no closing quote"),
        ("gpt_oss", ' to=functions.f<|channel|>commentary json<|message|>{"a"', "cut off"),
        ("deepseek_v3_1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f{}", "after the function's name"),
        ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0{}", "after the call's id"),
        ("lfm2", "<|tool_call_start|>[f(a='x]<|tool_call_end|>", "no closing quote"),
    ],
)
def test_damaged_call_is_a_value_with_its_reason(name: str, output: str, reason: str) -> None:
    parsed = get_format(name).parse(output)
    assert parsed.tool_calls == []
    assert reason in parsed.unparsed[0].reason
    assert parsed.unparsed[0].text in output


def test_a_damaged_call_leaves_the_others_whole() -> None:
    good = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    parsed = get_format("qwen2_5").parse(f"Text.\n{good}\n<tool_call>\n{{bad\n</tool_call>\n{good}<|im_end|>")
    assert calls_of(parsed.tool_calls) == [("f", '{"a": 1}')] * 2
    assert [unparsed.text for unparsed in parsed.unparsed] == ["<tool_call>\n{bad\n</tool_call>"]
    assert parsed.content == "Text." and parsed.complete


def test_closing_tag_inside_an_argument_ends_no_call() -> None:
    arguments = {"text": 'a </tool_call> b <tool_call> "c"'}
    message = Message("assistant", "", tool_calls=[ToolCall("f", arguments)], ipython=True)
    parsed = get_format("qwen2_5").parse(text_of(turn("qwen2_5", message)))
    assert parsed.tool_calls[0].arguments == arguments


def test_plain_text_that_looks_like_a_token_ends_no_turn() -> None:
    segments = [Segment("say <|im_end|> and <tool_call>"), Segment("<|im_end|>", special=True)]
    parsed = get_format("qwen2_5").parse(segments)
    assert parsed.content == "say <|im_end|> and <tool_call>" and parsed.complete and not parsed.unparsed


def test_output_without_an_end_token_is_incomplete() -> None:
    assert not get_format("qwen2_5").parse("Hello").complete
    assert get_format("qwen2_5").parse("Hello<|im_end|>\n").complete


@pytest.mark.parametrize(
    ("output", "reasoning", "content"),
    [
        ("<think>\nwhy\n</think>\n\nyes", "why", "yes"),
        ("why\n</think>\n\nyes", "why", "yes"),
        ("<think>\n\n</think>\n\nyes", None, "yes"),
        ("<think>\nnot done", "not done", ""),
        ("yes", None, "yes"),
    ],
)
def test_thoughts_are_told_from_the_answer(output: str, reasoning: str | None, content: str) -> None:
    parsed = get_format("qwen3").parse(output)
    assert (parsed.reasoning_content, parsed.content) == (reasoning, content)


def test_json_answer_that_is_no_call_stays_text() -> None:
    text = 'Here: {"name": "Bob", "age": 3}'
    assert get_format("llama3_1").parse(text).content == text
    bare = '{"city": "Rome"}'
    assert get_format("llama3_1").parse(bare).content == bare


def test_llama_reads_code_and_json_behind_the_python_tag() -> None:
    fmt = get_format("llama3_1")
    assert calls_of(fmt.parse("<|python_tag|>print(1)<|eom_id|>").tool_calls) == [
        ("code_interpreter", '{"code": "print(1)"}')
    ]
    parsed = fmt.parse(
        '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": "1"}}<|eom_id|>'
    )
    assert calls_of(parsed.tool_calls) == [("f", "{}"), ("g", '{"a": "1"}')]


def test_ids_come_back_where_the_family_writes_them() -> None:
    call = ToolCall("f", {}, "abcdefghi")
    message = Message("assistant", "", tool_calls=[call], ipython=True)
    assert get_format("mistral_v7").parse(turn("mistral_v7", message)).tool_calls[0].id == "abcdefghi"
    assert get_format("mistral_v11").parse(turn("mistral_v11", message)).tool_calls[0].id == "abcdefghi"
    assert get_format("kimi_k2").parse(turn("kimi_k2", message)).tool_calls[0].id == "functions.f:0"


def test_schemas_decide_the_type_of_raw_text() -> None:
    output = "<tool_call>\n<function=f>\n<parameter=a>\n75001\n</parameter>\n</function>\n</tool_call>"
    fmt = get_format("qwen3_coder")
    string = [{"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}]
    number = [{"name": "f", "parameters": {"properties": {"a": {"type": ["integer", "null"]}}}}]
    assert fmt.parse(output, string).tool_calls[0].arguments == {"a": "75001"}
    assert fmt.parse(output, number).tool_calls[0].arguments == {"a": 75001}
    assert fmt.parse(output).tool_calls[0].arguments == {"a": 75001}


def test_gpt_oss_reads_each_channel() -> None:
    parsed = get_format("gpt_oss").parse(
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary<|message|>Wait.<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": "1"}<|call|>'
    )
    assert parsed.reasoning_content == "hm" and parsed.content == "Wait."
    assert calls_of(parsed.tool_calls) == [("f", '{"a": "1"}')] and parsed.complete
