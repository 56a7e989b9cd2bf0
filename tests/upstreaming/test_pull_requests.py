"""The pull requests on stand-in trees: each applies, alone and together, and all of the tree's tests pass."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("libcst")

from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import VARIANTS, git
from upstream_pr import MAX_LINES, PAGES, PULL_REQUESTS, make

from torchtune.data import OpenAIToMessages, ShareGPTToMessages

Applied = Callable[..., Path]
RunTests = Callable[..., None]
RunPython = Callable[..., subprocess.CompletedProcess[str]]
SUBSETS = [subset for n in (1, 2, 3) for subset in itertools.combinations((1, 2, 3), n)]


@pytest.mark.parametrize("numbers", SUBSETS, ids=str)
def test_each_of_the_three_applies_alone_and_with_others_and_all_tests_pass(
    applied: Applied, run_tests: RunTests, numbers: tuple[int, ...]
) -> None:
    run_tests(applied(numbers))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "loops"])
@pytest.mark.parametrize("numbers", [(), (1,), (2,), (3,), (1, 2, 3, 4, 5, 6)], ids=str)
def test_the_edits_find_their_places_however_the_code_is_laid_out(
    applied: Applied, run_tests: RunTests, variant: str, numbers: tuple[int, ...]
) -> None:
    run_tests(applied(numbers, variant), *(["tests"] if numbers else ["tests/torchtune/data"]))


def test_every_order_gives_the_same_tree(applied: Applied) -> None:
    trees = {git(applied(order), "rev-parse", "HEAD^{tree}") for order in itertools.permutations((1, 2, 3))}
    assert len(trees) == 1


def test_each_is_one_commit_on_a_branch_of_its_own_with_the_summary_of_its_page(applied: Applied) -> None:
    tree = applied((1, 2, 3, 4, 5, 6))
    branches = [f"tool-calls-{request.page}" for request in PULL_REQUESTS.values()]
    for before, branch, request in zip(["main", *branches], branches, PULL_REQUESTS.values(), strict=False):
        assert git(tree, "rev-list", "--count", f"{before}..{branch}") == "1"
        page = (PAGES / f"{request.page}.md").read_text(encoding="utf-8")
        message = git(tree, "log", "-1", "--format=%B", branch)
        assert message.splitlines()[0] in page.splitlines()[0]
        summary = page.split("## Summary\n")[1].split("\n## ")[0]
        assert message.split("\n", 1)[1].split() == summary.split()
        assert max(map(len, message.splitlines())) <= 72
    assert git(tree, "status", "--porcelain") == ""


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("number", PULL_REQUESTS)
def test_each_diff_is_small(applied: Applied, variant: str, number: int) -> None:
    tree = applied(tuple(range(1, 7)), variant)
    branch = f"tool-calls-{PULL_REQUESTS[number].page}"
    lines = git(tree, "diff", "--numstat", f"{branch}~", branch).splitlines()
    counts = {path: int(added) + int(removed) for added, removed, path in (line.split("\t") for line in lines)}
    assert sum(n for path, n in counts.items() if not path.startswith(("tests/", "docs/"))) < MAX_LINES


def test_existing_tests_and_modules_other_than_the_transforms_are_not_touched(
    applied: Applied, changed: Callable[[Path], dict[str, str]]
) -> None:
    changes = changed(applied((1, 2, 3, 4)))
    assert {path for path, status in changes.items() if status != "A"} == {
        "torchtune/data/_messages.py",
        "docs/source/index.rst",
    }
    assert sum(path.startswith("tests/torchtune/data/test_") for path in changes) == 4


def test_laid_modules_are_this_project_s_own_under_the_tree_s_header(applied: Applied) -> None:
    tree = applied((1, 2, 3))
    own = Path(__file__).parents[2] / "torchtune" / "data"
    for name in [name for number in (1, 2, 3) for name in PULL_REQUESTS[number].modules]:
        header, ours = (tree / f"torchtune/data/{name}.py").read_text().split('"""', 1)
        assert header.startswith("# Copyright (c) the owners of this tree.\n")
        assert (own / f"{name}.py").read_text() == '"""' + ours


def test_the_tutorial_goes_beside_the_tree_s_tutorials(applied: Applied) -> None:
    tree = applied((1, 2, 3, 4))
    index = (tree / "docs/source/index.rst").read_text()
    assert "   tutorials/chat\n   tutorials/tool_calls\n\nEnd." in index
    assert (tree / "docs/source/tutorials/tool_calls.rst").is_file()


def test_the_tutorial_is_good_restructured_text(applied: Applied) -> None:
    core = pytest.importorskip("docutils.core")
    text = (applied((1, 2, 3, 4)) / "docs/source/tutorials/tool_calls.rst").read_text()
    plain = re.sub(r":(class|func):`~?([^`]+)`", r"``\2``", text)
    core.publish_doctree(plain, settings_overrides={"halt_level": 2, "report_level": 2})


def test_losses_import_only_with_their_names(applied: Applied, run_python: RunPython, run_tests: RunTests) -> None:
    before = run_python(applied(), "-c", "import torchtune.rlhf.loss")
    assert "NameError: name 'TypeVar' is not defined" in before.stderr
    assert run_python(applied((5,)), "-c", "import torchtune.rlhf.loss").returncode == 0
    run_tests(applied((5, 6)), "tests/torchtune/rlhf", "tests/torchtune/test_every_module_imports.py")


def test_the_import_test_sees_a_module_that_does_not_import(fresh: Applied, run_python: RunPython) -> None:
    tree = fresh((5, 6))
    (tree / "torchtune/broken.py").write_text("import no_such_package\n")
    done = run_python(tree, "-m", "pytest", "-q", "tests/torchtune/test_every_module_imports.py")
    assert "test_every_module_imports[torchtune.broken]" in done.stdout and done.returncode == 1
    (tree / "torchtune/broken.py").write_text("import tensordict_that_is_not_there as t\n")
    assert run_python(tree, "-m", "pytest", "-q", "tests/torchtune/test_every_module_imports.py").returncode == 1


READ = """
import json, sys
from torchtune.data import OpenAIToMessages, ShareGPTToMessages, validate_messages
for line in sys.stdin:
    kind, row = json.loads(line)
    messages = (OpenAIToMessages() if kind == "messages" else ShareGPTToMessages())({kind: row})["messages"]
    validate_messages(messages)
    print(json.dumps([[m.role, m.text_content, m.ipython, m.eot, m.masked] for m in messages]))
"""

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CALL = st.tuples(st.sampled_from(["f", "get_weather"]), st.dictionaries(TEXT, JSON, max_size=3), st.booleans())
TURN = st.tuples(TEXT, st.lists(CALL, max_size=3), st.permutations(range(3)))


@st.composite
def openai_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Conversations of text, calls with ids and results in any order, and answers."""
    rows: list[dict[str, Any]] = []
    for said, calls, order in draw(st.lists(TURN, min_size=1, max_size=3)):
        rows.append({"role": "user", "content": said})
        made = [
            {"id": f"c{k}", "function": {"name": name, "arguments": json.dumps(values) if text else values}}
            for k, (name, values, text) in enumerate(calls)
        ]
        if made:
            rows.append({"role": "assistant", "content": said or None, "tool_calls": made})
            rows += [{"role": "tool", "tool_call_id": f"c{k}", "content": f"of {k}"} for k in order if k < len(made)]
        rows.append({"role": "assistant", "content": said})
    return rows


def _sharegpt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same conversation as ShareGPT turns."""
    turns: list[dict[str, Any]] = []
    for row in rows:
        if row["content"] is not None:
            speaker = {"user": "human", "assistant": "gpt", "tool": "observation"}[row["role"]]
            turns.append({"from": speaker, "value": row["content"]})
        if "tool_calls" in row:
            calls = [{**call["function"], "id": call["id"]} for call in row["tool_calls"]]
            turns.append({"from": "function_call", "value": json.dumps(calls)})
    return turns


def test_the_tree_reads_what_this_project_reads_with_no_call_lost(applied: Applied, run_python: RunPython) -> None:
    rows: list[list[dict[str, Any]]] = []

    @settings(max_examples=80, deadline=None, database=None)
    @given(openai_rows())
    def collect(row: list[dict[str, Any]]) -> None:
        rows.append(row)

    collect()
    assert sum(len(row.get("tool_calls", ())) > 1 for row in itertools.chain(*rows)) > 5
    samples = [*(("messages", row) for row in rows), *(("conversations", _sharegpt(row)) for row in rows)]
    done = run_python(applied((1, 2, 3)), "-c", READ, text="\n".join(map(json.dumps, samples)))
    assert done.returncode == 0, done.stderr
    assert len(samples) == len(done.stdout.splitlines())
    transforms: dict[str, Any] = {
        "messages": OpenAIToMessages(nulls="keep"),
        "conversations": ShareGPTToMessages(nulls="keep"),
    }
    for (kind, row), line in zip(samples, done.stdout.splitlines(), strict=True):
        ours, theirs = transforms[kind]({kind: row})["messages"], json.loads(line)
        assert [(m.role, m.ipython, m.eot, m.masked) for m in ours] == [(t[0], *t[2:]) for t in theirs]
        for i, message in enumerate(ours):
            said, _, last = theirs[i][1].rpartition("\n")
            if message.tool_calls:
                calls = json.loads(last)
                calls = calls if isinstance(calls, list) else [calls]
                assert said == message.text_content
                assert calls == [{"name": c.name, "arguments": c.arguments, "id": c.id} for c in message.tool_calls]
            elif message.role != "tool":
                assert theirs[i][1] == message.text_content
        results = [t[1] for t in theirs if t[0] == "tool"]
        if kind == "messages":
            assert sorted(results) == sorted(m.text_content for m in ours if m.role == "tool")


def test_the_new_tests_of_validation_fail_without_it(fresh: Applied, applied: Applied, run_python: RunPython) -> None:
    tree, test = fresh(), "tests/torchtune/data/test_validate_tool_calls.py"
    (tree / test).write_text((applied((1,)) / test).read_text())
    done = run_python(tree, "-m", "pytest", "-q", "-rA", test)
    assert "FAILED " + test + "::TestValidateToolCalls::test_a_call_may_have_several_results[2-tool]" in done.stdout
    assert "PASSED " + test + "::TestValidateToolCalls::test_a_call_may_have_several_results[1-tool]" in done.stdout


def test_the_turn_goes_on_in_the_tokens_of_llama_3(applied: Applied, run_python: RunPython) -> None:
    program = (
        "from torchtune.data import ShareGPTToMessages\nfrom torchtune.datasets import SFTDataset\n"
        "row = {'conversations': [{'from': 'human', 'value': 'f?'}, {'from': 'tool_call', 'value': '{\"name\": \"f\"}'},"
        " {'from': 'observation', 'value': '1'}, {'from': 'observation', 'value': '2'}, {'from': 'gpt', 'value': '3'}]}\n"
        "print(SFTDataset([row], ShareGPTToMessages())[0])"
    )
    assert "KeyError" in run_python(applied(), "-c", program).stderr
    tokens = run_python(applied((1, 2, 3)), "-c", program).stdout
    assert re.findall(r"<\|(python_tag|eom_id|eot_id)\|>", tokens) == [
        *("eot_id", "python_tag", "eom_id"),
        *("eom_id", "eom_id", "eot_id"),
    ]
    assert '<|python_tag|>{"name": "f", "arguments": {}}<|eom_id|>' in tokens


def test_a_dry_run_changes_nothing(fresh: Applied) -> None:
    tree = fresh()
    said = make(tree, 1, dry_run=True)
    assert "torchtune/data/_validate.py" in said and "changed lines: code" in said
    assert git(tree, "status", "--porcelain") == "" and git(tree, "branch", "--format=%(refname:short)") == "main"
