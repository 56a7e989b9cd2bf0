"""Odd rows, as data sets have them: nothing is left out or made up in silence, in training and in the check alike."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from torchtune.data import OpenAIToMessages, ShareGPTToMessages, ToolCall, check_rows
from torchtune.data.formats import get_format

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}]
USER, DONE = {"role": "user", "content": "q"}, {"role": "assistant", "content": "done"}


def calls(arguments: Any, **more: Any) -> dict[str, Any]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **more}


def row(*messages: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {"messages": [USER, *messages], "tools": TOOLS, **columns}


def result(content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "a", "content": content}


def read(row: dict[str, Any]) -> dict[str, Any]:
    return dict((OpenAIToMessages() if "messages" in row else ShareGPTToMessages())(row))


@pytest.mark.parametrize(
    ("odd", "at", "why"),
    [
        (row(calls('{"x": 1e400}')), 1, "1e400 is too large"),
        (row(calls({"x": [float("-inf")]})), 1, "NaN or an infinite number"),
        (row(calls({"x": {"y": float("nan")}})), 1, "NaN or an infinite number"),
        (row(calls({}), result({"x": float("nan")}), DONE), 2, "NaN or an infinite number"),
        (row(calls('{"x": "\\ud83d"}')), 1, r"half a character, '\\ud83d'"),
        ({"messages": [{**USER, "content": "\udc00 q"}, DONE]}, 0, "half a character"),
        (row({**DONE, "refusal": "I can't."}), 1, r"different content under \['content', 'refusal'\]"),
        (row({**DONE, "content": None, "audio": {"id": "a", "transcript": "Hi."}}), 1, "'audio', which is not read"),
        (row({"role": "assistant", "content": None, "tool_call": {"name": "f"}}), 1, "'tool_call', which is not read"),
        (row({**DONE, "reasoning_content": ["so"]}), 1, r"reasoning must be text, but found \['list'\]"),
        (row(calls("{}", function_call={"name": "f", "arguments": '{"x": 1}'})), 1, "different calls under"),
        (row({"role": "assistant", "tool_calls": [{"name": "f", "kwargs": {"x": 1}}]}), 1, r"but \['kwargs'\]"),
        (row({"role": "assistant", "tool_calls": [{"function": {"name": "f"}, "arguments": {"x": 1}}]}), 1, "beside its name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_would_be_lost_or_written_wrongly_is_refused_with_its_message(odd: Any, at: int, why: str) -> None:
    with pytest.raises(ValueError, match=f"message {at} .*{why}"):
        read(odd)
    errors = check_rows([odd], model="qwen3").errors
    assert {error.message for error in errors} == {at}
    assert ("encoding" in {error.kind for error in errors}) == ("half" in why)


@pytest.mark.parametrize("tools", ['[{"name": "f", "x": 1e400}]', [{"name": "f", "description": "\ud83d"}]])
def test_tools_that_no_text_can_hold_are_refused_and_their_calls_are_not(tools: Any) -> None:
    odd = row(calls("{}"), tools=tools)
    with pytest.raises(ValueError, match="Column 'tools'.*(too large|half)"):
        read(odd)
    assert [error.kind for error in check_rows([odd]).errors] == ["bad_tools"]


def test_a_key_twice_in_tools_is_refused_in_training_too() -> None:
    with pytest.raises(ValueError, match="Column 'tools'.*'name' stands twice"):
        read(row(DONE, tools='[{"name": "f", "name": "g"}]'))


def test_numbers_and_characters_at_the_edge_are_kept() -> None:
    arguments = {"x": [1.7e308, -0.0, 10**30, "\U0001f600\u2028\x85", None, "\ue000"]}
    (call,) = read(row(calls(arguments)))["messages"][1].tool_calls
    assert call == ToolCall("f", arguments, "a")
    assert check_rows([row(calls(json.dumps(arguments)))], model="qwen3").ok


def test_tools_under_the_older_functions_are_read_and_checked() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    answered = [called, {"role": "function", "name": "f", "content": "1"}, DONE]
    legacy = row(*answered, tools=None, functions=[TOOLS[0]["function"]])
    assert read(legacy)["tools"] == [TOOLS[0]["function"]]
    assert check_rows([legacy]).tools == {"f": 1}
    legacy["functions"] = [{"name": "g"}]
    assert [error.kind for error in check_rows([legacy]).errors] == ["undeclared_tool"]
    assert check_rows([legacy], tools=TOOLS).errors, "tools of all rows take the place of a row's own"
    assert read(row(DONE, functions=[{"name": "g"}]))["tools"] == TOOLS


def test_a_call_under_both_keys_is_one_call() -> None:
    both = calls('{"x": 1}', function_call={"name": "f", "arguments": {"x": 1}})
    assert read(row(both))["messages"][1].tool_calls == [ToolCall("f", {"x": 1}, "a")]


def test_a_refusal_beside_empty_content_is_what_was_said() -> None:
    assert read(row({**DONE, "content": "", "refusal": "No."}))["messages"][1].text_content == "No."
    assert read(row({**DONE, "refusal": None, "audio": None}))["messages"][1].text_content == "done"


def test_empty_ids_name_no_call() -> None:
    twice = {"role": "assistant", "tool_calls": [{"id": "", "name": "f", "arguments": {"x": x}} for x in (1, 2)]}
    answered = row(twice, *[{"role": "tool", "tool_call_id": "", "content": str(x)} for x in (1, 2)], DONE)
    assert [call.id for call in read(answered)["messages"][1].tool_calls] == [None, None]
    assert check_rows([answered], model="mistral_v3", format_options={"call_ids": "derive"}).ok


def test_a_result_without_an_id_answers_the_call_of_its_name() -> None:
    both = {"role": "assistant", "tool_calls": [{"name": name, "arguments": {}} for name in ("f", "g")]}
    swapped = {"messages": [USER, both, *[{"role": "tool", "name": n, "content": f"of {n}"} for n in ("g", "f")], DONE]}
    text = "".join(s.text for s in get_format("mistral_v3", call_ids="derive").render(read(swapped)["messages"]))
    called = json.loads(text.split("[TOOL_CALLS]")[1].split("</s>")[0])
    results = [json.loads(part.split("[/TOOL_RESULTS]")[0]) for part in text.split("[TOOL_RESULTS]")[1:]]
    ids = {call["name"]: call["id"] for call in called}
    assert [(r["content"], r["call_id"]) for r in results] == [("of g", ids["g"]), ("of f", ids["f"])]


def test_a_message_with_loss_false_is_not_trained() -> None:
    turns = [{"from": who, "value": str(i)} for i, who in enumerate(["human", "gpt"] * 2)]
    turns[1]["loss"] = False
    assert [m.masked for m in read({"conversations": turns})["messages"]] == [True, True, True, False]


def test_a_system_column_that_is_not_read_is_noted() -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    odd = {"system": "Be brief.", "conversations": turns}
    assert "apigen_mt" in check_rows([odd]).notes[0]
    assert not check_rows([odd], style="apigen_mt").notes


def test_fix_writes_rows_of_tables_and_says_what_json_cannot_hold(tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.jsonl"
    check_rows([row(DONE, when=datetime.date(2024, 2, 29), note="\ud83d")], fix=fixed)
    written = json.loads(fixed.read_text(encoding="utf-8"))
    assert written["when"] == "2024-02-29" and written["note"] == "\ud83d"
    for bad, found in (({"blob": b"x"}, "bytes"), ({"score": float("nan")}, "not JSON compliant")):
        for errors in ({}, {"tool_calls": [{"name": "f", "arguments": "{'x': 1}"}]}):
            with pytest.raises(ValueError, match=f"row 1 is no JSON: .*{found}"):
                check_rows([row({**DONE, **errors}, **bad)], fix=fixed)


def test_fix_keeps_a_row_over_several_lines_as_it_is_written(tmp_path: Path) -> None:
    source, fixed = tmp_path / "rows.json", tmp_path / "fixed.jsonl"
    source.write_text('[{"n": 1.10,\n "note": "\\ud83d",\n "messages": ' + json.dumps([USER, DONE]) + "}]")
    check_rows(source, fix=fixed)
    (line,) = fixed.read_text().splitlines()
    assert line.startswith('{"n": 1.10,  "note": "\\ud83d",')


def test_a_python_literal_that_says_a_key_twice_has_no_one_meaning(tmp_path: Path) -> None:
    odd = row(calls("{'x': 1, 'x': 2}"))
    report = check_rows([odd], fix=tmp_path / "fixed.jsonl")
    assert report.fix is not None and report.fix["left_out"] == [1]
    text = """<tool_call>\n{'name': 'f', 'arguments': {'x': 1, 'x': 2}}\n</tool_call>"""
    with pytest.raises(ValueError, match="message 1 .*not valid JSON"):
        OpenAIToMessages(parse_text_calls=True)(row({**DONE, "content": text}))
