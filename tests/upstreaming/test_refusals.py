"""What the tool refuses: it says why and what to do, and leaves the tree as it was."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("libcst")

from stand_in import VARIANTS, git, make_tree
from upstream import edits
from upstream_pr import PULL_REQUESTS, PullRequestError, make

Applied = Callable[..., Path]
ROOT = Path(__file__).parents[2]
MESSAGES = "torchtune/data/_messages.py"


def commit_edit(tree: Path, old: str, new: str, path: str = MESSAGES) -> None:
    """Change a file of a tree, and commit it."""
    text = (tree / path).read_text()
    assert old in text
    (tree / path).write_text(text.replace(old, new))
    git(tree, "commit", "-qam", "another shape")


def test_a_dirty_tree_is_refused(fresh: Applied) -> None:
    tree = fresh()
    (tree / MESSAGES).write_text((tree / MESSAGES).read_text() + "\n# mine\n")
    with pytest.raises(
        PullRequestError, match=r"uncommitted changes; commit or stash them first:\n M torchtune/data/_mess"
    ):
        make(tree, 1)
    assert git(tree, "branch", "--format=%(refname:short)") == "main"


@pytest.mark.parametrize("number", PULL_REQUESTS)
def test_an_applied_pull_request_is_refused(fresh: Applied, number: int) -> None:
    with pytest.raises(PullRequestError, match=f"pull request {number} .* is applied .* already"):
        make(fresh((1, 2, 3, 4, 5, 6)), number)


@pytest.mark.parametrize(("number", "edit", "error"), [
    (1, ("def validate_messages", "def check_messages"), "has no function 'validate_messages'; found .*check_messages"),
    (2, ("class OpenAIToMessages", "class OpenAI"), "has no class 'OpenAIToMessages'; found .*'OpenAI'"),
    (2, ("    def __call__", "    def convert"), "class 'OpenAIToMessages' has no function '__call__'; found .*convert"),
    (2, ('built.append(Message(role=role, content=content))', "self.add(built, message)"), "ShareGPT.* has no loop that makes a Message"),
    (2, ('"human"', '"person"'), "ShareGPTToMessages has no dict with the keys .*human.*gpt"),
    (2, ('for message in sample[self._column_map["messages"]]', "for message in self.rows()"), "must read the column 'messages'"),
    (3, ('return {"messages": built}', "return self.result(built)"), "gives back no dict with the key 'messages'"),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_a_missing_place_is_named_with_what_was_found(
    fresh: Applied, number: int, edit: tuple[str, str], error: str
) -> None:
    tree = fresh()
    commit_edit(tree, *edit)
    with pytest.raises(PullRequestError, match=error):
        make(tree, number)
    assert git(tree, "status", "--porcelain") == "" and git(tree, "rev-parse", "--abbrev-ref", "HEAD") == "main"


def test_the_tutorial_needs_what_it_describes(fresh: Applied) -> None:
    with pytest.raises(PullRequestError, match=r"goes on top of \[1, 2, 3\]; .* lacks \[2\], apply them first"):
        make(fresh((1, 3)), 4)


def test_a_table_of_contents_without_tutorials_is_refused(fresh: Applied) -> None:
    tree = fresh((1, 2, 3))
    (tree / "docs/source/index.rst").write_text("Welcome\n")
    git(tree, "commit", "-qam", "no contents")
    with pytest.raises(PullRequestError, match="has no toctree with entries under tutorials/ or basics/"):
        make(tree, 4)


def test_a_folder_that_is_no_tree_is_refused(tmp_path: Path, fresh: Applied) -> None:
    with pytest.raises(PullRequestError, match="has no torchtune/data/_messages.py; expected a checkout of torchtune"):
        make(tmp_path, 1)
    tree = fresh()
    inner = tree / "inner" / MESSAGES
    inner.parent.mkdir(parents=True)
    inner.write_text("")
    with pytest.raises(PullRequestError, match="is no git checkout of its own; the one around it is"):
        make(tree / "inner", 1)


def test_a_file_of_the_same_name_is_not_overwritten(fresh: Applied) -> None:
    tree = fresh()
    (tree / "torchtune/data/_flags.py").write_text("mine = 1\n")
    with pytest.raises(PullRequestError, match="_flags.py is there already, with other content"):
        make(tree, 3)
    assert (tree / "torchtune/data/_flags.py").read_text() == "mine = 1\n"


def test_a_branch_that_is_there_is_refused_and_another_name_is_taken(fresh: Applied) -> None:
    tree = fresh()
    git(tree, "branch", "tool-calls-3-eot")
    with pytest.raises(PullRequestError, match="has a branch 'tool-calls-3-eot' already; .* --branch"):
        make(tree, 3)
    assert "on branch mine" in make(tree, 3, "mine")
    assert git(tree, "rev-parse", "--abbrev-ref", "HEAD") == "mine"


def test_code_that_does_not_parse_is_refused(fresh: Applied) -> None:
    tree = fresh()
    commit_edit(tree, "class Message:", "class Message")
    with pytest.raises(PullRequestError, match="is not Python that can be read"):
        make(tree, 1)


def test_a_commit_that_a_hook_refuses_leaves_the_tree_as_it_was(fresh: Applied) -> None:
    tree = fresh()
    hook = tree / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho lint fails >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(PullRequestError, match="lint fails"):
        make(tree, 1)
    assert git(tree, "branch", "--format=%(refname:short)") == "main"
    assert git(tree, "status", "--porcelain") == ""
    assert not (tree / "torchtune/data/_validate.py").exists()


def test_the_command_line_says_what_it_did_and_what_went_wrong(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    command = [sys.executable, str(ROOT / "tools/upstream_pr.py"), "--tree", str(tree), "--pr", "3"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert (
        "one commit on branch tool-calls-3-eot" in first.stdout
        and "git push -u origin tool-calls-3-eot" in first.stdout
    )
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and again.stderr.startswith("upstream_pr: pull request 3")


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_not_edited_keeps_its_bytes(applied: Applied, variant: str) -> None:
    diff = git(applied((3,), variant), "diff", "--numstat", "main", "--", MESSAGES).split("\t")
    assert int(diff[0]) <= 5 and int(diff[1]) <= 1


def test_names_that_are_bound_or_unknown_are_not_imported() -> None:
    source = "import typing\n\nOptional = int\n\n\ndef f(x: Optional, y: Any, z: Unknown) -> typing.Tuple:\n    return List\n"
    assert edits.undefined_names(source) == [("typing", "Any"), ("typing", "List")]
    fixed = edits.import_undefined(source)
    assert "from typing import Any, List\n" in fixed and edits.undefined_names(fixed) == []


def test_modules_that_are_laid_run_on_older_pythons_and_need_nothing_else() -> None:
    laid = [f"torchtune/data/{name}.py" for n in (1, 2, 3) for name in PULL_REQUESTS[n].modules]
    paths = [*(ROOT / path for path in laid), *(ROOT / "tools/upstream/tree").rglob("*.py")]
    assert len(paths) >= 9
    names = {path.stem for path in paths}
    for path in paths:
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        if "tests" in path.parts:
            continue
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torchtune"):
                assert (node.module or "").split(".")[-1] in names, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] in sys.stdlib_module_names, path
