"""Lay one of the pull requests of docs/upstreaming into a torchtune tree: one commit, on a branch of its own.

    python tools/upstream_pr.py --tree PATH_TO_TORCHTUNE --pr 1

New files are this project's own, as they stand here, under the comment header of the tree's files; the tree's
``torchtune/data/_messages.py`` is edited by syntax. Nothing is pushed. Needs ``libcst`` and ``git``.
"""

from __future__ import annotations

import argparse
import difflib
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from upstream import edits  # noqa: E402
from upstream.edits import EditError  # noqa: E402

PAGES = HERE.parent / "docs" / "upstreaming"
OVERLAY = HERE / "upstream" / "tree"
MESSAGES = "torchtune/data/_messages.py"
LOSSES = "torchtune/rlhf/loss"
#: Most changed lines that a reviewer is asked to read, tests and pages apart.
MAX_LINES = 400
_TRANSFORMS = (("OpenAIToMessages", "messages", "role"), ("ShareGPTToMessages", "conversations", "from"))


class PullRequestError(Exception):
    """The pull request cannot be made on this tree: says why, and what to do."""


class Tree:
    """A torchtune tree, read as it stands; changes are kept until they are committed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes: dict[str, str] = {}

    def has(self, path: str) -> bool:
        """Whether the tree has a file."""
        return path in self.changes or (self.root / path).is_file()

    def read(self, path: str) -> str:
        """A file's text, with the changes made so far.

        Raises:
            PullRequestError: if the tree has no such file.
        """
        if path in self.changes:
            return self.changes[path]
        if not (self.root / path).is_file():
            raise PullRequestError(f"{self.root} has no {path}; expected a checkout of torchtune")
        return (self.root / path).read_text(encoding="utf-8")

    def edit(self, path: str, change: Callable[[str], str]) -> None:
        """Change a file's text; an edit that does not fit names the file."""
        try:
            self.changes[path] = change(self.read(path))
        except EditError as error:
            raise PullRequestError(f"{path}: {error}") from error

    def header(self) -> str:
        """The comment that the tree's files begin with, a licence usually."""
        lines = self.read(MESSAGES).splitlines(keepends=True)
        end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        return "".join(lines[:end]) + "\n" if end else ""

    def lay(self, target: str, source: Path) -> None:
        """Add a new file, a Python file under the tree's header.

        Raises:
            PullRequestError: if the tree has it with other content.
        """
        text = source.read_text(encoding="utf-8")
        text = self.header() + text if target.endswith(".py") else text
        if self.has(target) and self.read(target) != text:
            raise PullRequestError(
                f"{self.root / target} is there already, with other content; move it away or merge by hand"
            )
        self.changes[target] = text

    def diff(self) -> dict[str, tuple[int, int]]:
        """Lines added to and removed from each file that changes."""
        counts = {}
        for path, text in self.changes.items():
            before = (self.root / path).read_text(encoding="utf-8") if (self.root / path).is_file() else ""
            if before != text:
                lines = list(difflib.unified_diff(before.splitlines(), text.splitlines(), n=0))[2:]
                counts[path] = (sum(x.startswith("+") for x in lines), sum(x.startswith("-") for x in lines))
        return counts


@dataclass(frozen=True)
class PullRequest:
    """One pull request.

    Args:
        page: its page in docs/upstreaming, without the suffix; also names the branch.
        modules: pure modules of torchtune/data that are laid into the tree as they stand here.
        overlay: files of tools/upstream/tree, laid in under the same path.
        build: makes the edits.
        applied: whether a tree has it.
        needs: pull requests that have to be in the tree.
    """

    page: str
    modules: tuple[str, ...]
    overlay: tuple[str, ...]
    build: Callable[[Tree], None]
    applied: Callable[[Tree], bool]
    needs: tuple[int, ...] = ()

    def message(self) -> str:
        """The commit message: title and summary of the page."""
        text = (PAGES / f"{self.page}.md").read_text(encoding="utf-8")
        title = re.search(r"^# (?:\d+\. )?(.+)$", text, re.MULTILINE)
        summary = re.search(r"^## Summary\n+(.+?)\n+(?=## |\Z)", text, re.MULTILINE | re.DOTALL)
        if title is None or summary is None:
            raise PullRequestError(
                f"{self.page}.md needs a title and a section 'Summary', which become the commit message"
            )
        wrap = [
            textwrap.fill(part, 72, break_long_words=False, break_on_hyphens=False) for part in summary[1].split("\n\n")
        ]
        return "\n\n".join([title[1], *wrap]) + "\n"

    def plan(self, tree: Tree) -> None:
        """Make all changes, in memory."""
        for name in self.modules:
            tree.lay(f"torchtune/data/{name}.py", HERE.parent / "torchtune" / "data" / f"{name}.py")
        for path in self.overlay:
            tree.lay(path, OVERLAY / path)
        self.build(tree)


def _validation(tree: Tree) -> None:
    tree.edit(MESSAGES, lambda text: edits.remove_function(text, "validate_messages"))
    tree.edit(
        MESSAGES,
        lambda text: edits.add_import(text, "torchtune.data._validate", "validate_messages", reexported=True),
    )


def _tool_turns(tree: Tree) -> None:
    for owner, column, speaker in _TRANSFORMS:
        tree.edit(MESSAGES, lambda text: edits.wrap_rows(text, owner, column, "read_tool_turns"))  # noqa: B023
        tree.edit(MESSAGES, lambda text: edits.pass_flag(text, owner, speaker, "ipython"))  # noqa: B023
    roles = {"tool": "tool", "ipython": "ipython"}
    tree.edit(MESSAGES, lambda text: edits.add_roles(text, "ShareGPTToMessages", ["human", "gpt"], roles))
    tree.edit(MESSAGES, lambda text: edits.add_import(text, "torchtune.data._text_calls", "read_tool_turns"))


def _eot(tree: Tree) -> None:
    for owner, *_ in _TRANSFORMS:
        tree.edit(MESSAGES, lambda text: edits.call_on_result(text, owner, "messages", "set_eot"))  # noqa: B023
    tree.edit(MESSAGES, lambda text: edits.add_import(text, "torchtune.data._flags", "set_eot"))


_INDEX = "docs/source/index.rst"
_TUTORIAL = "tool_calls.rst"


def _tutorial(tree: Tree) -> None:
    """Lay the tutorial beside the tree's own ones, and add it to their table of contents."""
    lines = tree.read(_INDEX).splitlines(keepends=True)
    for folder in ("tutorials", "basics"):
        entries = [i for i, line in enumerate(lines) if re.match(rf"\s+{folder}/\S+\s*$", line)]
        if entries:
            last = lines[entries[-1]]
            new = re.sub(r"\S+", f"{folder}/{PurePosixPath(_TUTORIAL).stem}", last.rstrip()) + "\n"
            lines[entries[-1] : entries[-1] + 1] = [last if last.endswith("\n") else last + "\n", new]
            tree.changes[_INDEX] = "".join(lines)
            tree.lay(f"docs/source/{folder}/{_TUTORIAL}", OVERLAY / "docs" / "source" / _TUTORIAL)
            return
    raise PullRequestError(f"{_INDEX} has no toctree with entries under tutorials/ or basics/, where the page could go")


def _loss_files(tree: Tree) -> list[str]:
    folder = tree.root / LOSSES
    if not folder.is_dir():
        raise PullRequestError(f"{tree.root} has no {LOSSES}; expected a checkout of torchtune")
    return [path.relative_to(tree.root).as_posix() for path in sorted(folder.glob("*.py"))]


def _losses(tree: Tree) -> None:
    for path in _loss_files(tree):
        if edits.undefined_names(tree.read(path)):
            tree.edit(path, edits.import_undefined)


def _has_import(module: str, name: str) -> Callable[[Tree], bool]:
    return lambda tree: edits.imports_name(tree.read(MESSAGES), f"torchtune.data.{module}", name)


_TESTS = "tests/torchtune/data"
PULL_REQUESTS = {
    1: PullRequest(
        "1-validation",
        ("_validate",),
        (f"{_TESTS}/test_validate_tool_calls.py",),
        _validation,
        _has_import("_validate", "validate_messages"),
    ),
    2: PullRequest(
        "2-tool-turns",
        ("_speakers", "_tool_calls"),
        ("torchtune/data/_text_calls.py", f"{_TESTS}/test_tool_turns.py"),
        _tool_turns,
        _has_import("_text_calls", "read_tool_turns"),
    ),
    3: PullRequest("3-eot", ("_flags",), (f"{_TESTS}/test_eot.py",), _eot, _has_import("_flags", "set_eot")),
    4: PullRequest(
        "4-tutorial",
        (),
        (f"{_TESTS}/test_tool_calls_tutorial.py",),
        _tutorial,
        lambda tree: any(tree.has(f"docs/source/{folder}/{_TUTORIAL}") for folder in ("tutorials", "basics")),
        needs=(1, 2, 3),
    ),
    5: PullRequest(
        "5-rlhf-loss",
        (),
        ("tests/torchtune/rlhf/test_loss_names.py",),
        _losses,
        lambda tree: not any(edits.undefined_names(tree.read(path)) for path in _loss_files(tree)),
    ),
    6: PullRequest(
        "6-imports",
        (),
        ("tests/torchtune/test_every_module_imports.py",),
        lambda tree: None,
        lambda tree: tree.has("tests/torchtune/test_every_module_imports.py"),
        needs=(5,),
    ),
}


def _git(root: Path, *args: str, text: str | None = None) -> str:
    done = subprocess.run(["git", "-C", str(root), *args], input=text, capture_output=True, text=True)
    if done.returncode:
        raise PullRequestError(f"git {' '.join(args)} failed in {root}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.rstrip("\n")


def _check(tree: Tree, number: int, branch: str) -> None:
    """Refuse a tree that the pull request cannot be made on."""
    tree.read(MESSAGES)
    top = Path(_git(tree.root, "rev-parse", "--show-toplevel"))
    if top.resolve() != tree.root.resolve():
        raise PullRequestError(f"{tree.root} is no git checkout of its own; the one around it is {top}")
    dirty = _git(tree.root, "status", "--porcelain", "--untracked-files=no")
    if dirty:
        raise PullRequestError(f"{tree.root} has uncommitted changes; commit or stash them first:\n{dirty}")
    request = PULL_REQUESTS[number]
    try:
        if request.applied(tree):
            raise PullRequestError(f"pull request {number} ({request.page}) is applied to {tree.root} already")
        missing = [n for n in request.needs if not PULL_REQUESTS[n].applied(tree)]
    except SyntaxError as error:
        raise PullRequestError(f"a file of {tree.root} is not Python that can be read: {error}") from error
    if missing:
        raise PullRequestError(
            f"pull request {number} goes on top of {list(request.needs)}; {tree.root} lacks {missing}, apply them first"
        )
    if _git(tree.root, "branch", "--list", branch):
        raise PullRequestError(f"{tree.root} has a branch {branch!r} already; delete it, or name another with --branch")
    _git(tree.root, "var", "GIT_COMMITTER_IDENT")


def _commit(tree: Tree, branch: str, message: str) -> None:
    """Write and commit the changes on a new branch; where git refuses, the tree is put back as it was."""
    before = _git(tree.root, "rev-parse", "--abbrev-ref", "HEAD")
    before = _git(tree.root, "rev-parse", "HEAD") if before == "HEAD" else before
    _git(tree.root, "checkout", "-q", "-b", branch)
    try:
        for path, text in tree.changes.items():
            (tree.root / path).parent.mkdir(parents=True, exist_ok=True)
            (tree.root / path).write_text(text, encoding="utf-8")
        _git(tree.root, "add", "--", *tree.changes)
        _git(tree.root, "commit", "-q", "-F", "-", text=message)
    except (PullRequestError, OSError):
        _git(tree.root, "reset", "-q", "--hard")
        _git(tree.root, "checkout", "-q", before)
        _git(tree.root, "branch", "-q", "-D", branch)
        raise


def _kind(path: str) -> str:
    return {"tests": "tests", "docs": "pages"}.get(path.split("/")[0], "code")


def make(root: Path, number: int, branch: str | None = None, *, dry_run: bool = False) -> str:
    """Make a pull request on a tree, as one commit on a new branch, which is left checked out.

    Args:
        root: the tree, a clean git checkout of torchtune.
        number: which pull request.
        branch: name of its branch; by default ``tool-calls-`` and the name of its page.
        dry_run: only say what would change.

    Returns:
        What was done, with the size of the diff.

    Raises:
        PullRequestError: if the tree is not one it can be made on.
    """
    request = PULL_REQUESTS[number]
    branch = branch or f"tool-calls-{request.page}"
    tree = Tree(root)
    _check(tree, number, branch)
    request.plan(tree)
    counts = tree.diff()
    sizes = {
        kind: sum(sum(n) for path, n in counts.items() if _kind(path) == kind) for kind in ("code", "tests", "pages")
    }
    if sizes["code"] >= MAX_LINES:
        raise PullRequestError(f"the diff has {sizes['code']} lines of code; expected fewer than {MAX_LINES}")
    lines = [f"  {path}  +{added} -{removed}" for path, (added, removed) in counts.items()]
    lines.append("changed lines: " + ", ".join(f"{kind} {size}" for kind, size in sizes.items()))
    if dry_run:
        return "\n".join([f"pull request {number}, branch {branch}, would change:", *lines])
    _commit(tree, branch, request.message())
    return "\n".join(
        [f"pull request {number}: one commit on branch {branch}", *lines, f"to push: git push -u origin {branch}"]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tree", type=Path, required=True, help="a clean git checkout of torchtune")
    pages = ", ".join(f"{number}: {request.page}" for number, request in PULL_REQUESTS.items())
    parser.add_argument("--pr", type=int, choices=PULL_REQUESTS, required=True, help=pages)
    parser.add_argument("--branch", help="name of the branch; by default that of the page")
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")
    args = parser.parse_args(argv)
    try:
        print(make(args.tree, args.pr, args.branch, dry_run=args.dry_run))
    except PullRequestError as error:
        print(f"upstream_pr: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
