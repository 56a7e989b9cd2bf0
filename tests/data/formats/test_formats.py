"""Names, options, refusals, and what single families decide."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from format_chats import own, text_of

from torchtune.data import Message, ToolCall
from torchtune.data.formats import detect_format, get_format, list_formats

CALL = ToolCall("get_weather", {"city": "Rome"}, "abcdefghi")
TOOLS = [{"name": "get_weather", "description": "d", "parameters": {"type": "object", "properties": {}}}]


def chat(*, text: str = "", calls: list[ToolCall] | None = None, reasoning: str | None = None) -> list[Message]:
    """Question, call, result, answer."""
    calls = calls or [CALL]
    return [
        Message("user", "Weather?"),
        Message("assistant", text, tool_calls=calls, ipython=True, eot=False, reasoning_content=reasoning),
        *[Message("tool", f"res{n}", tool_call_id=c.id, name=c.name, eot=False) for n, c in enumerate(calls)],
        Message("assistant", "Sunny."),
    ]


def test_all_promised_formats_are_there() -> None:
    promised = (
        "llama2 llama3 llama3_1 llama3_2 llama3_3 llama4 qwen2 qwen2_5 qwen3 qwen3_instruct_2507 mistral_v3 mistral_v7 "
        "gemma gemma2 phi3 phi4 smollm2 chatml hermes"
    )
    assert set(promised.split()) <= set(list_formats())
    for name in list_formats():
        fmt = get_format(name)
        assert fmt.name == name and fmt.stop and set(fmt.stop) <= set(fmt.controls)


def test_unknown_name_says_which_is_near() -> None:
    with pytest.raises(ValueError, match="Did you mean 'llama3_1'.*qwen3"):
        get_format("llama31")


def test_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="Format llama3_1 has no option 'dates'.*date_string.*end_of_call"):
        get_format("llama3_1").render([Message("user", "hi")], dates="x")
    with pytest.raises(ValueError, match="end_of_call: found 'maybe', expected one of 'eot', 'eom'"):
        get_format("llama3_1", end_of_call="maybe")
    with pytest.raises(ValueError, match="enable_thinking: found 'no', expected bool"):
        get_format("qwen3").parse("x", enable_thinking="no")


def test_bound_options_hold_until_a_call_says_otherwise() -> None:
    fmt = get_format("llama3_1", date_string="1 Jan 2030")
    assert "1 Jan 2030" in text_of(fmt.render([Message("user", "hi")]))
    assert "2 Feb 2031" in text_of(fmt.render([Message("user", "hi")], date_string="2 Feb 2031"))


def test_import_needs_neither_torch_nor_a_template_engine() -> None:
    code = (
        "import sys; from torchtune.data.formats import get_format, list_formats; "
        "[get_format(n) for n in list_formats()]; bad = {'torch', 'jinja2', 'transformers'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tools_bare_wrapped_or_as_json_are_the_same() -> None:
    fmt, messages = get_format("qwen2_5"), chat()
    wrapped = [{"type": "function", "function": TOOLS[0]}]
    texts = {text_of(fmt.render(messages, tools)) for tools in (TOOLS, wrapped, json.dumps(TOOLS))}
    assert len(texts) == 1
    with pytest.raises(ValueError, match="tools must be a list"):
        fmt.render(messages, {"name": "f"})


def test_empty_tools_are_no_tools() -> None:
    for name in list_formats():
        fmt = get_format(name)
        messages = [Message("user", "hi"), Message("assistant", "ho")]
        assert fmt.render(messages, []) == fmt.render(messages, None)


@pytest.mark.parametrize("name", ["llama3", "phi3", "phi4", "smollm2", "gemma2", "gemma3", "qwen2"])
def test_families_without_tools_refuse_calls_and_lend_a_convention(name: str) -> None:
    with pytest.raises(ValueError, match=rf"Format {name}, message 1 .*'get_weather'.*tool_convention=\"hermes\""):
        get_format(name).render(chat(), TOOLS)
    fmt = get_format(name, tool_convention="hermes")
    segments = fmt.render(chat(text="One moment."), TOOLS)
    text = text_of(segments)
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>' in text
    assert "<tool_response>\nres0\n</tool_response>" in text and '"description": "d"' in text
    assert {s.part for s in own(segments, 1)} >= {"content", "call", "end"}
    assert [s.part for s in segments if s.message_index == 2 and "res0" in s.text] == ["result"]
    parsed = fmt.parse(own(segments, 1))
    assert parsed.tool_calls == [ToolCall("get_weather", {"city": "Rome"})] and parsed.content == "One moment."


def test_llama_takes_one_call_a_message_and_points_to_the_other_format() -> None:
    two = [CALL, ToolCall("get_weather", {"city": "Oslo"}, "abcdefghj")]
    with pytest.raises(ValueError, match="message 1 .*found 2 calls.*llama3_meta"):
        get_format("llama3_1").render(chat(calls=two), TOOLS)
    text = text_of(get_format("llama3_meta").render(chat(calls=two)))
    assert '"Rome"}}{"type": "function"' in text


def test_llama_keeps_the_text_that_its_template_drops() -> None:
    segments = get_format("llama3_1").render(chat(text="One moment."), TOOLS)
    assert text_of(own(segments, 1)).startswith('One moment.{"name": "get_weather", "parameters"')


def test_end_of_call_eom_marks_calls_that_a_result_follows() -> None:
    fmt = get_format("llama3_1", end_of_call="eom")
    ends = [s.text for s in fmt.render(chat(), TOOLS) if s.part == "end" and s.sampled]
    assert ends == ["<|eom_id|>", "<|eot_id|>"]
    last_is_call = fmt.render(chat()[:2], TOOLS)
    assert [s.text for s in last_is_call if s.part == "end" and s.sampled] == ["<|eot_id|>"]


def test_mistral_ids_are_nine_characters_or_made_so() -> None:
    long = ToolCall("get_weather", {}, "call_oIHazX6yQrB8hUwl4cRilFKj")
    with pytest.raises(ValueError, match=r"message 1 .*call_oIHazX6yQrB8hUwl4cRilFKj.*call_ids=\"derive\""):
        get_format("mistral_v7").render(chat(calls=[long]), TOOLS)
    fmt = get_format("mistral_v7", call_ids="derive")
    segments = fmt.render(chat(calls=[long]), TOOLS)
    made = fmt.parse(own(segments, 1)).tool_calls[0].id
    assert made and len(made) == 9 and made.isalnum()
    assert f"[TOOL_RESULTS] {made}[TOOL_CONTENT]" in text_of(segments)
    nameless = fmt.render(chat(calls=[ToolCall("get_weather", {})]), TOOLS)
    assert fmt.parse(own(nameless, 1)).tool_calls[0].id in text_of([s for s in nameless if s.message_index == 2])


def test_mistral_joins_messages_of_one_role() -> None:
    messages = [Message("user", "a"), Message("user", "b"), Message("assistant", "c"), Message("assistant", "d")]
    text = text_of(get_format("mistral_v7").render(messages))
    assert text == "<s>[INST] a\n\nb[/INST] c\n\nd</s>"


def test_json_results_are_written_even_where_the_template_prints_nothing() -> None:
    messages = chat()
    messages[2] = Message("tool", [{"type": "json", "content": {"temperature": 21}}], tool_call_id="abcdefghi")
    for name in list_formats():
        fmt = get_format(name)
        if fmt.native_tools:
            mine = text_of([s for s in fmt.render(messages, TOOLS) if s.message_index == 2])
            assert "temperature" in mine and "21" in mine, name


def test_argument_that_a_syntax_cannot_carry_is_refused() -> None:
    bad = ToolCall("get_weather", {"city": "x\n</parameter>\n</function>\n</tool_call>"}, "abcdefghi")
    with pytest.raises(ValueError, match="message 1 .*'get_weather'.*cannot carry"):
        get_format("qwen3_coder").render(chat(calls=[bad]), TOOLS)
    with pytest.raises(ValueError, match="function name 'get weather'"):
        get_format("qwen2_5").render(chat(calls=[ToolCall("get weather", {})]))


def test_qwen3_drops_earlier_thoughts_and_expands_to_keep_them() -> None:
    fmt = get_format("qwen3")
    messages = [
        Message("user", "a"),
        Message("assistant", "b", reasoning_content="first"),
        Message("user", "c"),
        Message("assistant", "d", reasoning_content="second"),
    ]
    assert fmt.rewrites_history and "first" not in text_of(fmt.render(messages))
    samples = fmt.expand_turns(messages, TOOLS)
    assert [len(sample["messages"]) for sample in samples] == [2, 4]
    assert all(sample["tools"] == TOOLS for sample in samples)
    assert "first" in text_of(own(fmt.render(samples[0]["messages"]), 1))
    assert [m.masked for m in samples[1]["messages"]] == [False, True, False, False]
    assert not messages[1].masked
    for sample in samples:
        prompt = text_of(fmt.render(sample["messages"][:-1], add_generation_prompt=True))
        assert text_of(fmt.render(sample["messages"])).startswith(prompt)


def test_expansion_skips_turns_that_are_not_trained() -> None:
    messages = [Message("user", "a"), Message("assistant", "b", masked=True), Message("user", "c")]
    messages.append(Message("assistant", "d"))
    assert len(get_format("qwen3").expand_turns(messages)) == 1
    assert get_format("qwen2_5").expand_turns(messages) == [{"messages": messages}]


def test_turn_as_served_has_the_thought_that_the_prompt_opened_once() -> None:
    fmt = get_format("nemotron3")
    text = text_of(fmt.render_turn([Message("user", "a"), Message("assistant", "b")]))
    assert text.endswith("<|im_start|>assistant\n<think>\n</think>b<|im_end|>")


def test_parts_tell_thoughts_calls_and_ends_apart() -> None:
    messages = chat(text="Wait.", reasoning="why")
    segments = own(get_format("qwen3").render(messages, TOOLS), 1)
    by_part = {part: text_of([s for s in segments if s.part == part]) for part in {s.part for s in segments}}
    assert by_part == {
        "reasoning": "<think>\nwhy\n</think>\n\n",
        "content": "Wait.",
        "call": '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        "end": "<|im_end|>",
    }


def test_images_stand_where_the_family_has_them() -> None:
    image = object()
    content = [{"type": "text", "content": "see "}, {"type": "image", "content": image}]
    message = Message("user", content)
    segment = next(s for s in get_format("llama3_2").render([message]) if s.media is not None)
    assert segment.media is image and segment.text == "<|image|>" and segment.special
    with pytest.raises(ValueError, match="message 0 .*content of type 'image'"):
        get_format("qwen2_5").render([message])


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3-0.6B", "qwen3"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3_instruct_2507"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_coder"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2_5"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_1"),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "hermes"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral_v3"),
        ("google/gemma-3-4b-it", "gemma3"),
        ("microsoft/phi-4", "phi4"),
        ("qwen3_5", "qwen3_5"),
    ],
)
def test_format_is_found_by_the_models_name(model: str, name: str) -> None:
    assert detect_format(model) == name


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<|start_header_id|>' }} Cutting Knowledge Date builtin_tools", "llama3_1"),
        ("{{ '<|start_header_id|>' }} Cutting Knowledge Date", "llama3_2"),
        ("{{ '<|start_header_id|>' }}", "llama3"),
        ("<|im_start|> <tool_call> You are Qwen, created by Alibaba Cloud", "qwen2_5"),
        ("<|im_start|>", "chatml"),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral_v3"),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS] [SYSTEM_PROMPT] [TOOL_CONTENT]", "mistral_v7"),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS][", "mistral_v3_tekken"),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS][ [SYSTEM_PROMPT] [TOOL_CONTENT]", "mistral_v7_tekken"),
        ("'<|tool|>' '<|end|>'", "phi4_mini"),
    ],
)
def test_format_of_a_folder_is_found_by_its_template(tmp_path: Path, template: str, name: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert detect_format(tmp_path) == name
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_text(template)
    assert detect_format(tmp_path) == name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("mistralai/Ministral-8B-Instruct-2410", "mistral_v3_tekken"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral_v3_tekken"),
        ("mistralai/Mistral-Small-24B-Instruct-2501", "mistral_v7_tekken"),
        ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral_v7_tekken"),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral_v11"),
        ("mistralai/Ministral-3-8B-Instruct-2512", "mistral_v13"),
        ("microsoft/Phi-4-mini-instruct", "phi4_mini"),
        ("microsoft/phi-4", "phi4"),
    ],
)
def test_format_of_a_model_is_found_by_its_name(model: str, name: str) -> None:
    assert detect_format(model) == name


def test_phi_4_mini_has_no_newlines() -> None:
    messages = [Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello.")]
    fmt = get_format("phi4_mini")
    assert text_of(fmt.render(messages)) == (
        "<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>Hello.<|end|><|endoftext|>"
    )
    prompt = text_of(fmt.render(messages[:2], add_generation_prompt=True))
    assert prompt == "<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>"


def test_phi_4_mini_writes_and_reads_tools_in_tokens_of_its_own() -> None:
    fmt = get_format("phi4_mini")
    two = [CALL, ToolCall("get_weather", {"city": "<|/tool_call|>"}, "b")]
    segments = fmt.render([Message("system", "Be kind."), *chat(calls=two, text="A moment.")], TOOLS)
    text = text_of(segments)
    assert (
        text.startswith('<|system|>Be kind.<|tool|>[{"name": "get_weather", ') and "]<|/tool|><|end|><|user|>" in text
    )
    assert '<|assistant|>A moment.<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Rome"}}, {' in text
    assert "]<|/tool_call|><|end|><|tool_response|>res0<|end|><|tool_response|>res1<|end|>" in text
    assert [s.special for s in segments if s.text == "<|/tool_call|>"] == [True]
    parsed = fmt.parse(own(segments, 2))
    assert parsed.tool_calls == [ToolCall(c.name, c.arguments) for c in two]
    assert parsed.content == "A moment." and not parsed.unparsed and parsed.complete
    assert text_of(fmt.render([Message("user", "Hi")], TOOLS)).startswith(
        "<|system|>You are a helpful assistant with some tools.<|tool|>["
    )
    cut = fmt.parse('<|tool_call|>[{"name": "get_weather", "arguments": {"ci')
    assert not cut.tool_calls and "cut off" in cut.unparsed[0].reason and "get_weather" in cut.unparsed[0].text
    lent = get_format("phi4_mini", tool_convention="hermes")
    segments = lent.render(chat(), TOOLS)
    assert '<|assistant|><tool_call>\n{"name": "get_weather"' in text_of(segments)
    assert lent.parse(own(segments, 1)).tool_calls == [ToolCall("get_weather", {"city": "Rome"})]


def test_name_decides_between_formats_that_fit_a_template(tmp_path: Path) -> None:
    template = "{{ '<|start_header_id|>' }} Cutting Knowledge Date builtin_tools"
    (tmp_path / "chat_template.jinja").write_text(template)
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "meta-llama/Llama-3.3-70B-Instruct"}))
    assert detect_format(tmp_path) == "llama3_3"


def test_unknown_model_says_what_was_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no format.*or|fits no format"):
        (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
        detect_format(tmp_path)
    with pytest.raises(ValueError, match="'my-own-model', and it is no folder.*qwen3"):
        detect_format("my-own-model")


BAD_SCHEMAS: list[tuple[Any, str]] = [
    ({"name": "f", "parameters": ["x"]}, "parameters: expected a schema"),
    ({"name": "f", "parameters": {"properties": ["a"]}}, "parameters.properties: expected schemas by name"),
    ({"name": "f", "parameters": {"properties": {"a": "string"}}}, "parameters.properties.a: expected a schema"),
    (
        {"name": "f", "parameters": {"properties": {"a": {"type": 7}}}},
        "parameters.properties.a.type: expected the name",
    ),
    ({"name": "f", "parameters": {"properties": {"a": {"type": "array", "items": ["x"]}}}}, "a.items: expected"),
    ({"name": "f", "parameters": {"properties": {"a": {"oneOf": [5]}}}}, "a.oneOf.0: expected a schema"),
    ({"name": "f", "parameters": {"properties": {"a": {"type": "string", "enum": 5}}}}, "a.enum: expected a list"),
    ({"name": "f", "description": {"a": 1}, "parameters": {"properties": {"a": None}}}, "description: expected text"),
    ({"function": "f"}, "function: expected an object"),
    ({}, "name: expected text, found 'None'"),
]


@pytest.mark.parametrize("name", list_formats())
@pytest.mark.parametrize(("tool", "problem"), BAD_SCHEMAS)
def test_a_tool_that_is_no_schema_is_written_or_refused_in_words(name: str, tool: Any, problem: str) -> None:
    fmt = get_format(name)
    if not fmt.native_tools:
        fmt = get_format(name, tool_convention="hermes")
    try:
        fmt.render([Message("user", "a"), Message("assistant", "b")], [tool])
    except ValueError as error:
        assert f"Format {name}: tool 0, " in str(error) and "Mend the schema" in str(error)


@pytest.mark.parametrize(("tool", "problem"), BAD_SCHEMAS)
def test_what_is_wrong_with_a_schema_is_said(tool: Any, problem: str) -> None:
    from torchtune.data.formats._schemas import schema_problem

    wrapped = tool if "function" in tool else {"type": "function", "function": tool}
    assert problem in str(schema_problem([wrapped]))
    good = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}}
    assert schema_problem([{"type": "function", "function": good}]) is None


def test_reasoning_that_is_left_out_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    from torchtune.data.formats import _base

    _base._warned.clear()
    messages = [Message("user", "a"), Message("assistant", "b", reasoning_content="c")]
    for _ in range(2):
        get_format("qwen2_5").render(messages)
        get_format("qwen3").render(messages)
    assert [record.message.split(":")[0] for record in caplog.records] == ["Format qwen2_5"]
    assert "reasoning_content is left out" in caplog.text
