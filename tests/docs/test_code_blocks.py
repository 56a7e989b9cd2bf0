"""The code on the docs pages: every block is run, or checked as far as it can be without weights, a GPU or a network.

Python runs, in the page's order, and prints what stands below it. Lines of a shell are checked word by word, and those of
`tune` that need nothing from outside run. YAML names components that exist, with arguments they take, and keys that a recipe
reads. JSON parses. A block of which none of this holds is an error, unless the line before it says why:
``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shlex
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from markdown_it import MarkdownIt
from omegaconf import OmegaConf

from torchtune import _recipe_registry as registry
from torchtune._cli import tune
from torchtune.config import check_keys, validate
from torchtune.config._utils import _merge_yaml_and_cli_args

ROOT = Path(__file__).parents[2]
FILES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *ROOT.glob("docs/**/*.md")]
#: Pages that are written by a script when the docs are built, and drafts of pull requests to another repository.
MADE = {"formats", "upstreaming"}
SKIP = re.compile(r"<!-- not run: (\S.{9,}?) -->")
SHELL = {"sh", "bash", ""}
#: Directives of Sphinx, checked by the build, and what programs print.
SHOWN = {"text"}


class Block(NamedTuple):
    language: str
    text: str
    line: int
    reason: str | None


def blocks(page: str) -> list[Block]:
    """Each code block of a page, fenced or indented, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines, found = text.splitlines(), []
    for token in MarkdownIt().parse(text):
        if token.type not in ("fence", "code_block"):
            continue
        above = next((line for line in reversed(lines[: token.map[0]]) if line.strip()), "")
        reason = SKIP.search(above)
        found.append(Block(token.info.strip(), token.content, token.map[0] + 1, reason and reason[1]))
    return found


PAGES = sorted(str(page.relative_to(ROOT)) for page in FILES if not MADE & set(page.parts))
PAGES = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_checked_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        known = {"python", "json", "yaml", "yml", *SHELL, *SHOWN}
        assert block.language in known or block.language.startswith("{") or block.reason, (
            f"{page}, line {block.line}: no test knows {block.language!r}; use one of {sorted(known)}, or write "
            "<!-- not run: REASON --> above it"
        )


@pytest.mark.parametrize("page", PAGES)
def test_python_on_the_page_runs_and_prints_what_stands_below_it(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes((ROOT / "recipes/quickstart/data/test.jsonl").read_bytes())
    namespace: dict[str, object] = {"__name__": "page"}
    found = blocks(page)
    for i, block in enumerate(found):
        if block.language != "python" or block.reason:
            continue
        # The code stands at its own line, so that a traceback points into the page.
        code = compile("\n" * block.line + block.text, str(ROOT / page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        below = found[i + 1] if i + 1 < len(found) and found[i + 1].language == "text" else None
        if below is not None and below.line == block.line + block.text.count("\n") + 2:
            assert printed.getvalue().rstrip() == below.text.rstrip(), f"{page}, line {below.line}"


@pytest.mark.parametrize("page", PAGES)
def test_json_on_the_page_parses(page: str) -> None:
    for block in blocks(page):
        if block.language != "json":
            continue
        try:
            try:
                json.loads(block.text)
            except json.JSONDecodeError:  # a value a line, as in a file of rows
                for row in block.text.splitlines():
                    json.loads(row)
        except ValueError as error:
            pytest.fail(f"{page}, line {block.line}: {error}")


def recipe_keys() -> set[str]:
    """The keys at the top level of any recipe's config."""
    files = {registry.recipe_file(recipe) for recipe in registry.get_all_recipes()}
    return {key.split(".")[0] for file in files for key in registry.config_keys(file)}


@pytest.mark.parametrize("page", PAGES)
def test_yaml_on_the_page_names_keys_and_components_that_exist(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    known = recipe_keys() | {"output_dir", "train_file", "test_file", "checkpoint_dir", "strict"}
    for block in blocks(page):
        if block.language not in ("yaml", "yml") or block.reason:
            continue
        section = yaml.safe_load(block.text)
        assert isinstance(section, dict), f"{page}, line {block.line}: no keys"
        assert set(section) <= known, f"{page}, line {block.line}: no recipe reads {sorted(set(section) - known)}"
        try:
            validate(OmegaConf.create(section))
        except Exception as error:  # any: what is wrong is in it
            pytest.fail(f"{page}, line {block.line}: {error}")


def commands(page: str) -> list[tuple[int, str]]:
    """(line, command) of each line of a shell, continued lines joined, comments and prompts dropped."""
    found = []
    for block in blocks(page):
        if block.language not in SHELL or block.reason:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in re.split(r" && ", line):
                words = re.split(r"  #| > ", part)[0].strip().removeprefix("$ ")
                if words and not words.startswith("#"):
                    found.append((block.line, words))
    return found


def check_run(words: list[str]) -> None:
    """Recipe and config exist, torchrun knows its options, and the config with its overrides is one the recipe takes."""
    tune.make_parser().parse_args(words[1:])
    at = words.index("--config")
    name, config, overrides = words[at - 1], words[at + 1], words[at + 2 :]
    recipe = registry.find_recipe(name)
    file = registry.find_config(config) or Path(config)
    if recipe is None:
        assert name.endswith(".py"), f"no recipe {name}"
        return
    assert file.is_file() or config.startswith("./") or config == "my_config.yaml", f"{name} has no config {config}"
    read = registry.config_keys(registry.recipe_file(recipe))
    if not file.is_file():  # made by hand, or on another page
        sets = {override.lstrip("~").split("=")[0].split(".")[0] for override in overrides}
        assert sets <= {key.split(".")[0] for key in read}, f"{name} reads no {sets}"
        return
    cfg = OmegaConf.load(file)
    lacking = registry.missing_keys(name, cfg)
    assert not lacking, lacking
    cfg = _merge_yaml_and_cli_args(argparse.Namespace(**OmegaConf.to_container(cfg, resolve=False)), overrides)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_keys(cfg, read)
    validate(cfg)


def check_paths(words: list[str]) -> None:
    """Files of the repository that a command names are there."""
    for word in words:
        path = word.split("::")[0]
        if re.match(r"(\./)?(tests|benchmarks|tools|recipes|docs)(/|$)", path) and not re.search(
            r"[A-Z*]{3}|_build", path
        ):
            assert (ROOT / path).exists(), f"no {path}"


def check_pip(words: list[str]) -> None:
    """Extras exist, and so does the file of constraints."""
    extras = set(re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M))
    for word in words:
        if found := re.search(r"(?:torchtune|\.)\[([\w,]+)\]", word):
            assert set(found[1].split(",")) <= extras, f"no extra {found[1]}"
        if word.endswith(".txt"):
            assert (ROOT / word).is_file(), f"no {word}"


#: Programs that are not ours: what of their lines is checked is the files they name.
OTHERS = {
    "python",
    "pytest",
    "ruff",
    "mypy",
    "pre-commit",
    "sphinx-build",
    "sbatch",
    "vllm",
    "git",
    "curl",
    "cat",
    "scancel",
}


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_a_shell_name_what_exists_and_run_where_they_can(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = (ROOT / "recipes/quickstart/data/test.jsonl").read_text(encoding="utf-8")
    for name in ("rows.jsonl", "train.jsonl", "test.jsonl", "openai.jsonl"):
        Path(name).write_text(row, encoding="utf-8")
    for line, command in commands(page):
        words = shlex.split(command)
        while words and re.match(r"^[A-Z_]+=", words[0]):  # settings of the environment
            words = words[1:]
        try:
            if words[0] == "pip":
                check_pip(words)
            elif words[0] != "tune":
                assert words[0] in OTHERS or (ROOT / words[0]).is_file(), f"no test knows the program {words[0]}"
                check_paths(words)
            elif words[1] == "run":
                check_run(words)
            else:
                status = run_tune(words)
                assert status in (0, None), f"ends with {status}: {capsys.readouterr().err}"
        except (Exception, SystemExit) as error:  # any: what is wrong is in it
            pytest.fail(f"{page}, line {line}: {command}: {error}")


def run_tune(words: list[str]) -> object:
    """Runs a line of `tune`; one that needs a checkpoint or the hub is only parsed."""
    tune.make_parser().parse_args(words[1:])
    elsewhere = words[1] == "download" or any(re.match(r"\./[A-Z]|/tmp/|https?:", word) for word in words[2:])
    if elsewhere or "<" in " ".join(words):
        return 0
    try:
        args = tune.make_parser().parse_args(words[1:])
        args.func(args)
    except SystemExit as end:
        found_errors = words[1:3] == ["data", "check"] and end.code == 1  # that is what the command is for
        return 0 if found_errors else end.code
    return 0
