"""``tune data check`` and ``tune data show`` as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from torchtune._cli.tune import make_parser

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
BAD = {"messages": [{"role": "user", "content": "\x1b[2J"}, {"role": "user", "content": "x"}, {"role": "assistant"}]}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(BAD) + "\n")
    return path


def tune(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    parsed = make_parser().parse_args
    try:
        arguments = parsed([str(arg) for arg in args])
        arguments.func(arguments)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_errors_are_printed_with_file_and_line_and_end_with_1(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = tune(capsys, "data", "check", rows, "--model", "llama3_1")
    assert code == 1
    assert out.splitlines()[0].startswith(f"{rows}:3: message 1: role_order: Two consecutive user messages")
    assert out.splitlines()[1].startswith(f"{rows}:3: message 2: empty_target: ")
    assert "2 rows: 1 good, 1 with errors" in out
    assert "\x1b" not in out


def test_json_is_one_object(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = tune(capsys, "data", "check", rows, "--model", "llama3_1", "--json")
    report = json.loads(out)
    assert code == 1
    assert report["rows"] == 2
    assert {"line", "message", "kind", "text", "row", "field"} == set(report["errors"][0])
    assert (report["errors"][0]["line"], report["errors"][0]["message"]) == (3, 1)
    assert report["counts"]["errors"] == {"role_order": 1, "empty_target": 1}
    assert report["tools"] == {} and "lengths" not in report


def test_rows_without_an_error_end_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GOOD]))
    assert tune(capsys, "data", "check", path)[0] == 0


def test_fix_says_what_it_wrote(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = tune(capsys, "data", "check", rows, "--fix", tmp_path / "good.jsonl")
    assert code == 1
    assert "wrote 1 rows" in out and "left out 1 rows, at lines [3]" in out
    assert tune(capsys, "data", "check", tmp_path / "good.jsonl")[0] == 0


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["check", "no.jsonl"], "There is no file no.jsonl"),
        (["check", "{rows}", "--model", "lama"], "No chat format is known for the model name 'lama'"),
        (["check", "{rows}", "--model", "llama3_1", "--format-option", "x"], "expected KEY=VALUE"),
        (["check", "{rows}", "--model", "llama3_1", "--format-option", "x=1"], "has no option 'x'"),
        (["show", "{rows}", "--model", "llama3_1", "--row", "0"], "expected a number from 1"),
        (["show", "{rows}", "--model", "llama3_1", "--row", "9"], "has 2 rows"),
        (["show", "{rows}"], "--model"),
    ],
)
def test_wrong_arguments_end_with_2_and_a_reason(
    rows: Path, args: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = tune(capsys, "data", *(arg.format(rows=rows) for arg in args))
    assert code == 2
    assert why in err


def test_show_prints_rows_and_writes_a_page(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = tune(capsys, "data", "show", rows, "--row", "1", "--model", "qwen2_5")
    assert code == 0
    assert "⟦<|im_start|>assistant\na<|im_end|>\n⟧" in out
    code, out, _ = tune(capsys, "data", "show", rows, "--model", "qwen2_5", "--html", tmp_path / "page.html")
    assert (code, "Wrote 2 rows" in out) == (0, True)
    assert "</html>" in (tmp_path / "page.html").read_text()


def test_a_parquet_file_is_checked_by_row_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    bad = {"messages": [GOOD["messages"][0], GOOD["messages"][0]]}
    datasets.Dataset.from_list([GOOD, bad]).to_parquet(str(tmp_path / "rows.parquet"))
    code, out, _ = tune(capsys, "data", "check", tmp_path / "rows.parquet", "--json")
    assert code == 1
    assert [(error["line"], error["kind"]) for error in json.loads(out)["errors"]] == [
        (2, "no_target"),
        (2, "role_order"),
    ]


def test_help_is_light() -> None:
    code = (
        "import sys; sys.argv = ['tune', 'data', 'check', '--help']\n"
        "from torchtune._cli.tune import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'datasets', 'rich', 'jsonschema', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--max-seq-len" in done.stdout


def test_an_error_of_many_rows_is_printed_once_with_all_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    bad = [{"text": "x"}] * 3 + [GOOD] + [{"text": "x"}] * 2
    path.write_text("".join(json.dumps(row) + "\n" for row in bad))
    code, out, _ = tune(capsys, "data", "check", path)
    assert code == 1
    (line,) = [line for line in out.splitlines() if "no_conversation: " in line]
    assert line.startswith(f"{path}:1: ") and line.endswith("(and 4 more: lines 2-3, 5-6)")
    assert "1 good, 5 with errors" in out


def test_rows_of_a_public_set_are_checked_in_their_own_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = [{"name": "add", "description": "", "parameters": {"a": {"type": "int", "description": ""}}}]
    asked = {"query": "1?", "tools": json.dumps(tools)}
    rows = [{**asked, "answers": json.dumps([{"name": "add", "arguments": {"a": value}}])} for value in (1, "one")]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*rows, {"query": "no answers"}]))
    _, out, _ = tune(capsys, "data", "check", path)
    assert "style='xlam'" in out
    code, out, _ = tune(capsys, "data", "check", path, "--style", "xlam", "--model", "qwen3", "--json")
    report = json.loads(out)
    assert code == 1
    assert [(error["row"], error["kind"]) for error in report["errors"]] == [
        (2, "bad_argument"),
        (3, "bad_conversation"),
    ]
    assert report["tools"] == {"add": 2}
    _, out, _ = tune(capsys, "data", "show", path, "--style", "xlam", "--model", "qwen3", "--row", "1")
    assert '{"name": "add", "arguments": {"a": 1}}' in out


def test_a_file_of_tools_is_told_from_a_file_of_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([{"type": "function", "function": {"name": "f"}}]))
    assert "--tools" in tune(capsys, "data", "check", path)[1]


@pytest.mark.parametrize(
    ("given", "trained"),
    [
        ("sampled", "a<|im_end|>"),
        ("sampled,end=0", "a"),
        ("header=0", "a<|im_end|>\n"),
    ],
)
def test_train_on_takes_what_the_tokenizers_take(
    rows: Path, given: str, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = tune(capsys, "data", "show", rows, "--model", "qwen2_5", "--train-on", given)
    assert f"⟦{trained}⟧" in out


def test_the_help_names_all_that_the_library_knows() -> None:
    from torchtune._cli import data
    from torchtune.data import _selectors, _tool_sets

    assert all(name in data._STYLES for name in _tool_sets.TOOL_SETS)
    assert all(name in data._TRAIN_ON for name in (*_selectors._NAMES, *_selectors._PARTS))


@pytest.mark.parametrize("given", ["nothing", "call=much", "calls=2"])
def test_a_wrong_train_on_is_told(rows: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = tune(capsys, "data", "check", rows, "--train-on", given)
    assert code == 2 and "--train-on" in err
