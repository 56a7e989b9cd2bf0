"""The code on the docs pages: Python runs and prints what stands below it, JSON and YAML parse, `tune` lines name what is there."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from torchtune import _recipe_registry as registry

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    if "upstreaming" not in page.parts and "```" in page.read_text(encoding="utf-8")
)
FENCE = re.compile(r"^( *)```([\w+-]*)[ \t]*\n(.*?)^\1```[ \t]*$", re.M | re.S)
SUBCOMMANDS = {"ls", "cp", "cat", "run", "validate", "download", "data"}


def blocks(page: str) -> list[tuple[str, str, int]]:
    """(language, text, line) of each fenced block, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(m[2], m[3], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]


@pytest.mark.parametrize("page", PAGES)
def test_python_on_the_page_runs_and_prints_what_stands_below_it(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes((ROOT / "recipes/quickstart/data/test.jsonl").read_bytes())
    namespace: dict[str, object] = {"__name__": "page"}
    found = blocks(page)
    for i, (language, text, line) in enumerate(found):
        if language != "python":
            continue
        # The code stands at its own line, so that a traceback points into the page.
        code = compile("\n" * line + text, str(ROOT / page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        below = found[i + 1] if i + 1 < len(found) and found[i + 1][0] == "text" else None
        if below is not None and below[2] == line + text.count("\n") + 2:
            assert printed.getvalue().rstrip() == below[1].rstrip(), f"{page}, line {below[2]}"


@pytest.mark.parametrize("page", PAGES)
def test_json_and_yaml_on_the_page_parse(page: str) -> None:
    for language, text, line in blocks(page):
        try:
            if language == "json":
                try:
                    json.loads(text)
                except json.JSONDecodeError:  # a value a line, as in a file of rows
                    for row in text.splitlines():
                        json.loads(row)
            elif language in ("yaml", "yml"):
                assert yaml.safe_load(text) is not None
        except ValueError as error:
            pytest.fail(f"{page}, line {line}: {error}")


def command_lines(page: str) -> list[str]:
    lines = []
    for line in (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        found = re.match(r"^(?: {4}|\$ |(?:.*&& )|)(tune \w+ .*)$", line)
        if found:
            lines.append(found[1])
    return lines


@pytest.mark.parametrize("page", PAGES)
def test_tune_commands_on_the_page_name_recipes_and_configs_that_exist(page: str) -> None:
    for line in command_lines(page):
        words = shlex.split(line, comments=True)
        assert words[1] in SUBCOMMANDS, line
        if words[1] != "run" or "RECIPE" in line or "<" in line:
            continue
        at = next(i for i, word in enumerate(words[2:], 2) if word == "--config")
        recipe, config = words[at - 1], words[at + 1]
        assert registry.find_recipe(recipe) or recipe.endswith(".py"), f"{page}: no recipe {recipe}: {line}"
        if not config.endswith((".yaml", ".yml")):
            assert config in {c.name for c in registry.find_recipe(recipe).configs}, (
                f"{page}: {recipe} has no config {config}"
            )
