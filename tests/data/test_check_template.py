"""Before a run, rows are written by our format and by the checkpoint's chat template."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from torchtune.data import check_template
from torchtune.datasets import ConcatDataset, PackedDataset, chat_dataset
from torchtune.models.qwen2 import Qwen2Tokenizer
from torchtune.models.qwen2_5 import Qwen2_5Tokenizer
from torchtune.models.qwen3 import Qwen3Tokenizer

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": PARAMETERS}}]
CALL = {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
WITH_CALL = {
    "messages": [
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ],
    "tools": TOOLS,
}
PLAIN = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}

#: Qwen 3's template, without what these rows do not need.
TEMPLATE = """{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + (m.content if m.content is string else '') + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- for call in m.tool_calls %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor %}
{{- m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    return tmp_path


@pytest.fixture
def make(bpe_folder: Path, tmp_path: Path) -> Any:
    """Rows -> a tokenizer and a dataset of them."""

    def both(*rows: Any, cls: Any = Qwen3Tokenizer, streaming: bool = False, **options: Any) -> tuple[Any, Any]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"chat_format": "qwen3_instruct_2507"} | options
        tokenizer = cls(str(bpe_folder / "vocab.json"), str(bpe_folder / "merges.txt"), **options)
        columns = {"conversation_column": "messages", "conversation_style": "openai"}
        return tokenizer, chat_dataset(tokenizer, source=str(path), streaming=streaming, **columns)

    return both


def test_the_template_compared_is_the_one_that_will_be_served(make: Any, folder: Path) -> None:
    """Qwen 2's own writes no tools: the checkpoint gets one that does."""
    each = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    default = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    (folder / "chat_template.jinja").write_text(default + "{% for m in messages %}" + each + "{% endfor %}")
    options = {"cls": Qwen2Tokenizer, "chat_format": "qwen2", "format_options": {"tool_convention": "hermes"}}
    report = check_template(*make(WITH_CALL, PLAIN, **options), folder)
    assert report is not None and report.compared == 2 and report.differences == report.lossy == []


def test_rows_written_alike_pass(make: Any, folder: Path) -> None:
    report = check_template(*make(WITH_CALL, PLAIN), folder)
    assert report is not None and report.compared == 2 and report.differences == report.lossy == []


def test_rows_of_a_stream_are_compared(make: Any, folder: Path) -> None:
    report = check_template(*make(WITH_CALL, PLAIN, streaming=True), folder)
    assert report is not None and report.compared == 2


def test_a_difference_stops_with_its_first_place(make: Any, folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(TEMPLATE.replace("</tool_response>", "</tool_result>"))
    with pytest.raises(ValueError) as caught:
        check_template(*make(PLAIN, WITH_CALL), folder)
    text = str(caught.value)
    assert text.startswith(
        "row 2: format qwen3_instruct_2507 and the checkpoint's chat template differ from character "
    )
    assert "in message 2 (tool):" in text and "_response>" in text and "_result>" in text
    assert "1 of 2 rows differ" in text and "check_template: warn" in text


def test_the_checkpoints_own_format_is_named(make: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="seems to be 'qwen3_instruct_2507': set tokenizer.chat_format"):
        check_template(*make(WITH_CALL, cls=Qwen2_5Tokenizer, chat_format="qwen2_5"), folder)


def test_warn_logs_and_goes_on(make: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE + "bye")
    with caplog.at_level(logging.WARNING):
        report = check_template(*make(WITH_CALL), folder, "warn")
    assert report is not None and len(report.differences) == 1
    assert "after the last message" in caplog.text and "\\nbye'" in caplog.text


@pytest.mark.parametrize("mode", ["off", False])
def test_off_compares_nothing(make: Any, folder: Path, mode: Any) -> None:
    (folder / "chat_template.jinja").write_text("otherwise")
    assert check_template(*make(WITH_CALL), folder, mode) is None


def test_another_mode_is_refused(make: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="one of error, warn, off; found 'strict'"):
        check_template(*make(WITH_CALL), folder, "strict")


def test_a_folder_without_a_template_has_nothing_to_compare(make: Any, tmp_path: Path) -> None:
    assert check_template(*make(WITH_CALL), tmp_path) is None


def test_a_template_that_refuses_a_row_is_a_difference(make: Any, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no tools here') }}")
    with pytest.raises(ValueError, match="row 1: format .* writes it, but .*no tools here"):
        check_template(*make(WITH_CALL), folder)


def test_what_the_template_drops_is_told_and_no_difference(make: Any, folder: Path) -> None:
    row = json.loads(json.dumps(WITH_CALL))
    row["messages"][2]["content"] = {"sky": "clear"}  # the template takes text only
    report = check_template(*make(row), folder)
    assert report is not None and report.differences == []
    assert report.lossy == [
        "row 1: the checkpoint's chat template drops the result of message 2 (tool); "
        "format qwen3_instruct_2507 keeps it"
    ]


def test_plain_rows_in_torchtunes_own_format_are_not_compared(make: Any, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("otherwise")
    report = check_template(*make(PLAIN, chat_format=None), folder)
    assert report is not None and report.compared == 0
    with pytest.raises(ValueError, match="differ from character 0"):
        check_template(*make(PLAIN, WITH_CALL, chat_format=None), folder)


def test_a_template_that_wants_arguments_as_text_gets_them(make: Any, folder: Path) -> None:
    text = TEMPLATE.replace("call.function.arguments | tojson", "call.function.arguments")
    (folder / "chat_template.jinja").write_text(text)
    report = check_template(*make(WITH_CALL), folder)
    assert report is not None and report.compared == 1 and report.differences == []


def test_packed_and_joined_datasets_are_looked_into(make: Any, folder: Path) -> None:
    tokenizer, data = make(WITH_CALL, PLAIN)
    for dataset in (PackedDataset(data, max_seq_len=2048), ConcatDataset([data, data])):
        report = check_template(tokenizer, dataset, folder)
        assert report is not None and report.compared == (4 if isinstance(dataset, ConcatDataset) else 2)


def test_tokenizers_inside_a_transform_are_found_and_others_left_alone(make: Any, folder: Path) -> None:
    tokenizer, data = make(WITH_CALL)
    report = check_template(SimpleNamespace(tokenizer=tokenizer), data, folder)
    assert report is not None and report.compared == 1
    assert check_template(SimpleNamespace(), data, folder) is None


def test_templates_run_in_a_sandbox(make: Any, folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ValueError, match="unsafe"):
        check_template(*make(WITH_CALL), folder)


def test_the_date_is_the_formats_own(make: Any, tmp_path: Path) -> None:
    from torchtune.data._check_template import _renderer
    from torchtune.data.formats import get_format

    for name, pattern, date in (
        ("llama3_2", "%d %b %Y", "01 Feb 2025"),
        ("smollm3", "%d %B %Y", "01 February 2025"),
        ("gpt_oss", "%Y-%m-%d", "2025-02-01"),
    ):
        render = _renderer(("{{ strftime_now('" + pattern + "') }}", {}), get_format(name, date_string=date), [])
        assert render([]) == date
