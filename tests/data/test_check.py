"""check_rows: each planted fault is found, at its line, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from torchtune.data import check_rows

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"type": "string", "enum": ["C", "F"]},
    },
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}]
OSLO = {"city": "Oslo"}
HUGE = 50 << 20


def user(text: Any = "How is it?") -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: Any = "Fine.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(arguments: Any = OSLO, name: Any = "weather", id: Any = "a") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(made or [call()])}


def result(id: str | None = "a") -> dict[str, Any]:
    return {"role": "tool", "content": "7 degrees", **({} if id is None else {"tool_call_id": id})}


def row(*messages: Any, tools: Any = TOOLS) -> dict[str, Any]:
    return {"messages": list(messages), "tools": tools}


def plain(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


def deep_text(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = [user("Weather?"), calls(), result()]
#: Name -> the row (an object, or the bytes of its line), the kind of its one error, and the message that it is in.
FAULTS: dict[str, tuple[Any, str, int | None]] = {
    "a line cut off": (b'{"messages": [{"role": "user", "content": "hi', "bad_json", None),
    "two values in a line": (b'{"messages": []} {}', "bad_json", None),
    "NaN": (b'{"messages": [{"role":"user","content":"q"},{"role":"assistant","content":"a"}], "score": NaN}', "bad_json", None),
    "not UTF-8": (b'{"messages": [{"role":"user","content":"caf\xe9"},{"role":"assistant","content":"b"}]}', "encoding", None),
    "half a character": (b'{"messages": [{"role":"user","content":"\\ud83d"},{"role":"assistant","content":"c"}]}', "encoding", 0),
    "a key twice": (b'{"id": 1, "id": 2, "messages": [{"role":"user","content":"d"},{"role":"assistant","content":"e"}]}', "repeated_key", None),
    "a list as a row": ([user(), said()], "not_an_object", None),
    "50 MB": (b'{"messages": "' + b"x" * HUGE + b'"}', "row_too_large", None),
    "JSON 1,000 deep": (b'{"messages": ' + b"[" * 1000 + b"]" * 1000 + b"}", "nesting", None),
    "arguments 1,000 deep": (row(user(), calls(call(deep_text(1000)))), "nesting", 1),
    "arguments 300 deep": (row(user(), calls(call(nested(300)))), "nesting", 1),
    "no conversation": ({"text": "hello"}, "no_conversation", None),
    "a text as a conversation": ({"messages": {"role": "user"}}, "bad_conversation", None),
    "one message": (plain(user("only")), "too_few_messages", None),
    "an unknown role": (plain(user("r"), {"role": "narrator", "content": "x"}, said("r")), "unknown_role", 1),
    "no role": (plain(user("s"), {"content": "x"}, said("s")), "unknown_role", 1),
    "a message that is text": (plain(user("t"), "x", said("t")), "bad_message", 1),
    "a part without a type": (plain(user([{"text": "x"}]), said("u")), "bad_message", 0),
    "a question under another key": (plain({"role": "user", "text": "v"}, said("v")), "bad_message", 0),
    "a negative weight": (plain(user("v"), said("v", weight=-1)), "bad_message", 1),
    "a late system message": (plain(user("w"), SYSTEM, said("w")), "role_order", 1),
    "two user messages": (plain(user("x"), user("y"), said("x")), "role_order", 1),
    "an assistant first": (plain(said("z"), user("z"), said("z")), "role_order", 0),
    "an assistant after the system": (plain(SYSTEM, said("aa"), user("aa"), said("aa")), "role_order", 1),
    "two answers": (plain(user("ab"), said("ab"), said("ac")), "role_order", 2),
    "a result after a user": (row(user("ad"), result(), said("ad")), "role_order", 1),
    "a call by the user": (row({**user("ae"), "tool_calls": [call()]}, said("ae")), "bad_call", 0),
    "a call without a name": (row(user("af"), calls(call(name="")), result(), said("af")), "bad_call", 1),
    "arguments that are no JSON": (row(user("ag"), calls(call("{city: Oslo}")), result(), said("ag")), "bad_call", 1),
    "arguments that are a list": (row(user("ah"), calls(call('["Oslo"]')), result(), said("ah")), "bad_call", 1),
    "an undeclared tool": (row(user("ai"), calls(call(name="wether")), result(), said("ai")), "undeclared_tool", 1),
    "a call id twice": (row(user("aj"), calls(), calls(), result(), said("aj")), "repeated_call_id", 2),
    "an unknown result id": (row(user("ak"), calls(), result("b"), said("ak")), "unknown_result_id", 2),
    "a result id twice": (row(*ASKED, result(), said("al")), "repeated_result_id", 3),
    "a result too many": (row(*ASKED[:2], result(None), result(None), said("am")), "extra_result", 3),
    "a missing argument": (row(user("an"), calls(call({"days": 2})), result(), said("an")), "missing_argument", 1),
    "a wrong type": (row(user("ao"), calls(call({**OSLO, "days": "2"})), result(), said("ao")), "bad_argument", 1),
    "a value that is no choice": (row(user("ap"), calls(call({**OSLO, "unit": "K"})), result(), said("ap")), "bad_argument", 1),
    "an argument too many": (row(user("aq"), calls(call({**OSLO, "x": 1})), result(), said("aq")), "bad_argument", 1),
    "tools that are no JSON": (row(user("ar"), said("ar"), tools="[{'name': 'f'}]"), "bad_tools", None),
    "a tool without a name": (row(user("as"), said("as"), tools=[{"parameters": {}}]), "bad_tools", None),
    "a tool twice": (row(user("at"), said("at"), tools=[*TOOLS, *TOOLS]), "repeated_tool", None),
    "a schema that is none": (row(user("au"), said("au"), tools=[{"name": "f", "parameters": {"type": 5}}]), "bad_schema", None),
    "an empty answer": (plain(user("av"), said(" \n")), "empty_target", 1),
    "nothing trained": (plain(user("aw"), said("aw", weight=0)), "no_target", None),
    "a missing image": (plain(user([{"type": "image", "image": "no/such.png"}]), said("ax")), "missing_image", 0),
    "two calls where the format takes one": (row(user("ay"), calls(call(), call(id="b")), result(), result("b"), said("ay")), "format_refuses", 1),
    "too long": (plain(user("az" * 3000), said("az")), "too_long", None),
    "a row again": (row(user("clean 0"), calls(), result(), said("clean 0")), "duplicate_row", None),
}  # fmt: skip


def clean(number: int) -> dict[str, Any]:
    text = f"clean {number}"
    return row(user(text), calls(), result(), said(text)) if number % 2 == 0 else plain(SYSTEM, user(text), said(text))


def line_of(row: Any) -> bytes:
    return (row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int | None, str]]]:
    """A file of clean rows with a fault after each, blank lines now and then, and what is to be found."""
    path = tmp_path_factory.mktemp("rows") / "planted.jsonl"
    wanted, line = [], 0
    with path.open("wb") as file:
        for number, (fault, kind, message) in enumerate(FAULTS.values()):
            file.write(line_of(clean(number)))
            if number % 5 == 0:
                file.write(b"\n")
                line += 1
            file.write(line_of(fault))
            line += 2
            wanted.append((line, message, kind))
    return path, wanted


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a vocabulary of single bytes, in the form of Llama 3's."""
    folder = tmp_path_factory.mktemp("model")
    lines = (f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256))
    (folder / "tokenizer.model").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("processes", [1, 2])
def test_every_planted_fault_is_found_at_its_line_and_nothing_else(
    planted: tuple[Path, list[tuple[int, int | None, str]]], vocabulary: Path, processes: int
) -> None:
    path, wanted = planted
    assert len(wanted) >= 40
    report = check_rows(path, model=vocabulary, max_seq_len=4096, processes=processes)
    assert [(error.line, error.message, error.kind) for error in report.errors] == wanted
    assert report.rows == 2 * len(FAULTS)
    assert (report.counts["good"], report.counts["bad"]) == (len(FAULTS), len(FAULTS))


def test_the_same_faults_are_found_in_a_list_over_several_lines(tmp_path: Path, vocabulary: Path) -> None:
    rows = [clean(i) for i in range(3)]
    rows[1:1] = [fault for fault, *_ in FAULTS.values() if isinstance(fault, dict)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=2))
    report = check_rows(path, model=vocabulary, max_seq_len=4096)
    text = path.read_text().splitlines()
    starts = [number for number, line in enumerate(text, start=1) if line == "  {"]
    kinds = [(kind, message) for fault, kind, message in FAULTS.values() if isinstance(fault, dict)]
    assert [(error.kind, error.message) for error in report.errors] == kinds
    assert [error.line for error in report.errors] == starts[1 : 1 + len(kinds)]


def test_all_errors_of_a_row_are_named() -> None:
    bad = row(
        user(),
        user(),
        calls(call({"days": "x"}), call(name="g", id="a")),
        result("z"),
        said(""),
        tools=[*TOOLS, {"a": 1}],
    )
    report = check_rows([bad], model="qwen3")
    assert [(error.message, error.kind) for error in report.errors] == [
        (None, "bad_tools"),
        (1, "role_order"),
        (2, "undeclared_tool"),
        (2, "repeated_call_id"),
        (2, "bad_argument"),
        (2, "missing_argument"),
        (3, "unknown_result_id"),
        (4, "empty_target"),
    ]
    assert report.errors[4].field == "messages[2].tool_calls[0].arguments.days"
    assert report.errors[5].field == "messages[2].tool_calls[0].arguments"


def test_a_format_is_asked_again_behind_what_it_refused() -> None:
    two = calls(call(), call(id="b"))
    turns = [user("1"), two, result("a"), result("b"), said("1")]
    report = check_rows(
        [row(SYSTEM, *turns, *turns, user("2"), calls(), result(), said("2"), *turns)], model="llama3_1"
    )
    assert [(error.kind, error.message) for error in report.errors] == [("format_refuses", i) for i in (2, 7, 16)]
    assert all(f"message {error.message} (assistant)" in error.text for error in report.errors)


def test_messages_of_a_row_are_counted_as_they_stand_in_it() -> None:
    sharegpt = [
        {"from": "human", "value": "hi"},
        {"from": "gpt", "value": "Let me see."},
        {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": OSLO})},
        {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {}})},
        {"from": "observation", "value": "7"},
        {"from": "observation", "value": "8"},
        {"from": "observation", "value": "9"},
        {"from": "gpt", "value": "ok"},
    ]
    report = check_rows([{"conversations": sharegpt, "tools": json.dumps(TOOLS)}], model="qwen2_5")
    assert [(error.message, error.kind) for error in report.errors] == [(3, "missing_argument"), (6, "extra_result")]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty_file"),
        (b"\n  \n", "empty_file"),
        (b"[]", "empty_file"),
        (b"\x1f\x8b\x08\x00abc", "not_text"),
        (json.dumps(clean(0), indent=1).encode(), "not_rows"),
    ],
)
def test_a_file_without_rows_is_an_error_at_line_1(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    report = check_rows(path)
    assert [(error.line, error.kind) for error in report.errors] == [(1, kind)]
    assert report.rows == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_named_and_read_all_the_same(tmp_path: Path, encoding: str) -> None:
    path, good = tmp_path / "rows.jsonl", tmp_path / "good.jsonl"
    rows = [clean(0), FAULTS["two user messages"][0], clean(1)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding=encoding)
    report = check_rows(path, fix=good)
    assert [(error.line, error.kind) for error in report.errors] == [(1, "encoding"), (2, "role_order")]
    assert [json.loads(line) for line in good.read_text(encoding="utf-8").splitlines()] == [rows[0], rows[2]]


def test_rows_are_read_from_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(line_of(clean(0)) + line_of(["no row"]),))
    writer.start()
    report = check_rows(pipe, model="llama3_1", fix=tmp_path / "good.jsonl")
    writer.join()
    assert [(error.line, error.kind) for error in report.errors] == [(2, "not_an_object")]
    assert json.loads((tmp_path / "good.jsonl").read_bytes()) == clean(0)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(clean(i)).encode() for i in range(3)))
    assert check_rows(path, model="llama3_1").ok


def test_a_list_is_read_on_behind_an_item_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    items = [json.dumps(clean(0)), '{"messages": [1, 2,],\n "a": "}]"}', json.dumps(clean(1)), "[" * 1000 + "]" * 1000]
    path.write_text("[\n" + ",\n".join(items) + "\n]\n")
    report = check_rows(path)
    assert [(error.line, error.row, error.kind) for error in report.errors] == [(3, 2, "bad_json"), (6, 4, "nesting")]
    path.write_text("[\n" + ",\n".join(items[:3]) + ',\n{"messages": ')
    assert [(error.line, error.kind) for error in check_rows(path).errors] == [(3, "bad_json"), (6, "bad_json")]


def test_numbers_of_a_report(vocabulary: Path) -> None:
    report = check_rows([clean(i) for i in range(4)], model=vocabulary)
    assert report.ok
    assert report.counts == {
        "good": 4, "bad": 0, "messages": 14, "system": 2, "user": 4, "assistant": 6, "tool": 2, "calls": 2, "errors": {},
    }  # fmt: skip
    assert report.tools == {"weather": 2}
    assert report.lengths is not None
    assert report.lengths["rows"] == 4
    assert 0 < report.lengths["trained"]["total"] < report.lengths["total"]


def test_lengths_are_those_of_the_training_samples(vocabulary: Path) -> None:
    from torchtune.data import OpenAIToMessages
    from torchtune.models.llama3 import llama3_tokenizer

    tokenizer = llama3_tokenizer(str(vocabulary / "tokenizer.model"))
    samples = [tokenizer(dict(OpenAIToMessages()(clean(i)))) for i in range(4)]
    lengths = check_rows([clean(i) for i in range(4)], model=vocabulary).lengths
    assert lengths is not None
    assert lengths["total"] == sum(len(sample["tokens"]) for sample in samples)
    assert lengths["trained"]["total"] == sum(sample["mask"].count(False) for sample in samples)


def test_calls_without_tools_are_noted_and_checked_where_tools_are_given() -> None:
    bare = plain(user(), calls(call({})), result(), said())
    report = check_rows([bare])
    assert report.ok and "no tools" in report.notes[0]
    assert [error.kind for error in check_rows([bare], tools=TOOLS).errors] == ["missing_argument"]
    assert [error.kind for error in check_rows([{**bare, "tools": []}]).errors] == ["undeclared_tool"]
    assert check_rows([{**bare, "tools": []}], builtin_tools=["weather"]).ok


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "dict", "properties": {"x": {"type": "float"}}}, {"x": 1.5}, {"x": "1.5"}),
        ({"type": "object", "properties": {"x": {"type": "int, optional"}}}, {"x": 1}, {"x": "1"}),
        ({"type": "object", "properties": {"x": {"type": "List[int]"}}}, {"x": [1]}, {"x": 1}),
        ({"type": "object", "properties": {"x": {"type": "string", "nullable": True}}}, {"x": None}, {"x": 1}),
        ({"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}, {"x": 1}, {"x": 0.5}),
        ({"type": "object", "properties": {"type": {"type": "str"}}}, {"type": "dict"}, {"type": 1}),
    ],
)  # fmt: skip
def test_schemas_as_data_sets_write_them(schema: Any, good: Any, bad: Any) -> None:
    tools = [{"name": "f", "parameters": schema}]
    kinds = []
    for arguments in (good, bad):
        made = row(user(), calls(call(json.dumps(arguments), name="f")), tools=json.dumps(tools))
        kinds.append([error.kind for error in check_rows([made]).errors])
    assert kinds == [[], ["bad_argument"]]


@pytest.mark.parametrize("ref", ["https://example.com/schema.json", "#/nowhere", "#"])
def test_a_schema_that_refers_to_nothing_is_an_error_and_fetches_nothing(ref: str) -> None:
    tools = [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"$ref": ref}}}}]
    report = check_rows([row(user(), calls(call({"x": 1}, name="f")), tools=tools)])
    assert [error.kind for error in report.errors] == ["bad_argument" if ref == "#" else "bad_schema"]


def test_fix_writes_what_is_right_and_repairs_what_has_one_meaning(tmp_path: Path) -> None:
    path, good = tmp_path / "rows.jsonl", tmp_path / "good.jsonl"
    literal = row(user("l"), calls(call("{'city': 'Oslo', 'days': 2}")), result(), said("l"))
    wrong_id = row(user("i"), calls(), result("b"), said("i"))
    two_calls = row(user("j"), calls(call(), call(id="b")), result("c"), said("j"))
    rows = [clean(0), literal, wrong_id, two_calls, clean(0), clean(1)]
    path.write_bytes(b"".join(map(line_of, rows)) + b"not json\n")
    report = check_rows(path, fix=good)
    written = [json.loads(line) for line in good.read_text().splitlines()]
    assert written[0] == clean(0) and written[3] == clean(1)
    assert json.loads(written[1]["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "city": "Oslo",
        "days": 2,
    }
    assert written[2]["messages"][2]["tool_call_id"] == "a"
    assert report.fix is not None
    assert (report.fix["written"], report.fix["left_out"]) == (4, [4, 5, 7])
    assert [one["line"] for one in report.fix["repaired"]] == [2, 3]
    assert check_rows(good).ok
    with pytest.raises(ValueError, match="would overwrite the rows it reads"):
        check_rows(path, fix=path)


def test_nothing_is_left_behind_where_a_fix_fails(tmp_path: Path) -> None:
    def rows() -> Any:
        yield clean(0)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        check_rows(rows(), fix=tmp_path / "good.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_fix_takes_the_place_of_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for out, why in (("pipe", "which is no file"), (".", "which is no file"), ("no/such/rows", "there is no folder")):
        with pytest.raises(ValueError, match=why):
            check_rows([clean(0)], fix=tmp_path / out)
    assert (tmp_path / "pipe").is_fifo()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere\.jsonl"):
        check_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="max_seq_len must be 1 or more; found -3"):
        check_rows([clean(0)], max_seq_len=-3)
    with pytest.raises(ValueError, match="style must be one of"):
        check_rows([clean(0)], style="alpaca")
    with pytest.raises(ValueError, match="has no tokenizer: expected tokenizer.json"):
        check_rows([clean(0)], model=tmp_path)
    with pytest.raises(ValueError, match="llama3_1"):
        check_rows([clean(0)], model="lama31")


def test_a_format_alone_needs_no_torch_and_gives_no_lengths(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line_of(clean(0)))
    code = (
        "import sys; from torchtune.data import check_rows; "
        f"report = check_rows({str(path)!r}, model='llama3_1', max_seq_len=5).to_dict(); "
        "assert 'lengths' not in report and 'was not checked' in report['notes'][0], report; "
        "assert not {'torch', 'datasets', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


PREFERENCE_FAULTS: dict[str, tuple[dict[str, Any], str, int | None, str]] = {
    "two user messages": ({"chosen": [user("a"), user("b"), said("c")], "rejected": [user("a"), said("d")]}, "role_order", 1, "chosen[1]"),
    "a fault in what both begin with": ({"chosen": [SYSTEM, said("x"), user("e"), said("f")], "rejected": [SYSTEM, said("x"), user("e"), said("g")]}, "role_order", 1, "chosen[1]"),
    "a rejected answer that cannot be read": ({"chosen": [user("h"), said("i")], "rejected": [user("h"), {"role": "bot", "content": "j"}]}, "unknown_role", 1, "rejected[1]"),
    "a chosen call of what is not declared": ({"chosen": [user("k"), calls(call(name="wether"))], "rejected": [user("k"), said("l")], "tools": TOOLS}, "undeclared_tool", 1, "chosen[1]"),
    "a text for a conversation": ({"chosen": [user("m"), said("n")], "rejected": 5}, "bad_conversation", None, "rejected"),
    "the same twice": ({"chosen": [user("o"), said("p")], "rejected": [user("o"), said("p")]}, "same_answers", None, "rejected"),
    "a schema that is none": ({"chosen": [user("q"), said("r")], "rejected": [user("q"), said("s")], "tools": [{"name": "f", "parameters": {"type": 5}}]}, "bad_schema", None, "tools[0]"),
    "too long": ({"prompt": [user("t" * 2000)], "chosen": [said("u")], "rejected": [said("v" * 2000)]}, "too_long", None, "rejected"),
}  # fmt: skip


def test_faults_of_preference_rows_are_found_once_and_at_their_side(tmp_path: Path, vocabulary: Path) -> None:
    good = [
        {"prompt": [user("Weather?")], "chosen": [said("Fine.")], "rejected": [said("No.")]},
        {"chosen": [user("A"), said("B")], "rejected": [user("A"), said("")]},
        {
            "chosen": [user("W"), calls()],
            "rejected": [user("W"), calls(call({"town": 1}, name="wether"))],
            "tools": TOOLS,
        },
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"".join(map(line_of, [*good, *(fault for fault, *_ in PREFERENCE_FAULTS.values()), good[0]])))
    report = check_rows(path, model=vocabulary, max_seq_len=3000)
    wanted = [(4 + i, message, kind) for i, (_, kind, message, _) in enumerate(PREFERENCE_FAULTS.values())]
    repeated = (4 + len(wanted), None, "duplicate_row")
    assert [(error.line, error.message, error.kind) for error in report.errors] == [*wanted, repeated]
    for error, (*_, field) in zip(report.errors, PREFERENCE_FAULTS.values(), strict=False):
        assert error.field.startswith(field) and error.text.startswith(("chosen", "rejected"))
    assert report.counts["calls"] == 3


def test_columns_of_preferences_are_asked_for_by_their_style() -> None:
    (error,) = check_rows([plain(user(), said())], style="preference").errors
    assert error.kind == "no_conversation" and "'chosen' and 'rejected'" in error.text
    (error,) = check_rows([{"chosen": [], "rejected": []}], style="openai").errors
    assert error.kind == "no_conversation"


@pytest.mark.parametrize(
    ("line", "way_out"),
    [
        (b'{"instruction": "a", "input": "", "output": "b"}\n', "instruct_dataset"),
        (b'{"query": "a", "tools": "[]", "answers": "[]"}\n', "style='xlam'"),
        (b'{"name": "f", "parameters": {}}\n', "--tools"),
        (b'{"talk": []}\n', "--conversation-column"),
        (b"{'messages': []}\n", "json.dumps"),
        (b'{\n"messages": []\n}\n{}\n', "goes over several"),
    ],
)
def test_what_a_beginner_may_have_meant_is_told(tmp_path: Path, line: bytes, way_out: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line)
    assert way_out in check_rows(path).errors[0].text


def test_a_folder_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file of rows"):
        check_rows(tmp_path)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_a_file_that_is_not_what_its_name_says_is_told(tmp_path: Path, name: str) -> None:
    pytest.importorskip("datasets")
    (tmp_path / name).write_bytes(b'PAR1"\x00\n1,2,3\n' * 3)
    with pytest.raises(ValueError, match=name):
        check_rows(tmp_path / name)
