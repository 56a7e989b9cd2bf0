"""Families without tools: the chat template that their checkpoints are served with writes tools as we train them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torchtune.data import Message, ToolCall
from torchtune.data.formats import detect_format, get_format
from torchtune.data.formats._registry import find_templates, serve_templates

_ALTERNATING = "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}{% endif %}"
_GEMMA_TURN = (
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ lead if loop.first }}"
    "{{ m.content | trim }}<end_of_turn>\n"
)
#: Templates as those of the hub, in fewer words, and the tokens they name.
TEMPLATES = {
    "gemma2": "{{ '<bos>' }}{% set lead = '' %}{% for m in messages %}" + _ALTERNATING + _GEMMA_TURN + "{% endfor %}",
    "gemma3": "{{ '<bos>' }}{% set first_user_prefix = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% set lead = first_user_prefix %}{% set turns = messages[1:] if lead else messages %}{% for m in turns %}" + _ALTERNATING + _GEMMA_TURN + "{% endfor %}",
    "llama3": "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' "
    "+ m.content | trim + '<|eot_id|>' }}{% endfor %}",
    "qwen2": "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nYou are a helpful "
    "assistant.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}",
}  # fmt: skip
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Wetter – für eine Stadt", "parameters": {"type": "object", "properties": {}}},
}  # fmt: skip


def conversation(system: str | None) -> list[Message]:
    """Parallel calls with words before them, two results of which one is JSON, an answer, and a plain turn."""
    calls = [ToolCall("weather", {"city": 'Ōsaka "x"', "days": 2}, "c1"), ToolCall("weather", {}, "c2")]
    lead = [Message("system", system)] if system is not None else []
    return [
        *lead,
        Message("user", " Weather? "),
        Message("assistant", "Let me look.", tool_calls=calls),
        Message("tool", "4 degrees", tool_call_id="c1"),
        Message("tool", [{"type": "json", "content": {"degrees": 5.0, "ok": None}}], tool_call_id="c2"),
        Message("assistant", "4 and 5."),
        Message("user", "Again"),
        Message("assistant", "", tool_calls=calls[:1]),
        Message("tool", "6", tool_call_id="c1"),
        Message("assistant", "6."),
    ]


def rows_of(messages: list[Message]) -> list[dict[str, Any]]:
    """The same as rows that ``apply_chat_template`` takes."""
    rows = []
    for message in messages:
        value = message.content[0] if message.content else {"type": "text", "content": ""}
        row: dict[str, Any] = {"role": message.role, "content": value["content"]}
        if message.tool_calls:
            row["content"] = row["content"] or None
            row["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in message.tool_calls
            ]
        rows.append(row)
    return rows


@pytest.mark.parity
@pytest.mark.parametrize("tools", [[TOOL, TOOL], None])
@pytest.mark.parametrize("system", [None, " Be brief. "])
@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_served_template_writes_what_is_trained(family: str, system: str | None, tools: Any) -> None:
    templating = pytest.importorskip("transformers.utils.chat_template_utils")
    if family == "gemma2":
        system = None  # it has none
    fmt = get_format(family, tool_convention="hermes")
    messages = conversation(system)
    served = templating._compile_jinja_template(fmt.served_template(TEMPLATES[family]))
    text = served.render(messages=rows_of(messages), tools=tools)
    assert text == "".join(segment.text for segment in fmt.render(messages, tools))
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Ōsaka \\"x\\"", "days": 2}}\n</tool_call>' in text


def test_a_format_that_writes_tools_itself_keeps_its_template() -> None:
    assert get_format("gemma3").served_template("{{ x }}") == "{{ x }}"
    assert get_format("qwen3").served_template("{{ x }}") == "{{ x }}"


def test_templates_of_a_folder_are_lent_tools_once_wherever_they_stand(tmp_path: Path) -> None:
    fmt = get_format("gemma3", tool_convention="hermes")
    own = TEMPLATES["gemma3"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": own, "bos_token": "<bos>"}))
    (tmp_path / "chat_template.jinja").write_text(own)
    for _ in range(2):
        serve_templates(tmp_path, fmt)
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        assert settings == {"chat_template": fmt.served_template(own), "bos_token": "<bos>"}
        assert find_templates(tmp_path) == {"default": fmt.served_template(own)}
    assert detect_format(tmp_path) == "gemma3"  # and not that of a family with such calls
