"""The public names of torchtune and their parameters, as callers of torchtune 0.6 write them."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
from inspect import Parameter
from pathlib import Path
from typing import Any

import pytest

# module -> name -> parameters: "a", "b=1", ":keyword_only", "*args", "**kwargs"; "=..." is a default that is no literal;
# null is no callable of a known signature.
NAMES: dict[str, dict[str, str | None]] = json.loads(
    (Path(__file__).parents[1] / "assets" / "surface" / "names.json").read_text(encoding="utf-8")
)
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def split(text: str) -> list[str]:
    """Parameters apart, commas inside brackets and strings left alone."""
    parts, depth, quote, start = [], 0, "", 0
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[i - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif text.startswith(", ", i) and depth == 0:
            parts.append(text[start:i])
            start = i + 2
    return [part for part in [*parts, text[start:]] if part]


def differences(found: Any, wanted: str) -> list[str]:
    """What a caller of the wanted signature would notice."""
    parameters = inspect.signature(found).parameters
    takes_all = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    order = [name for name, p in parameters.items() if p.kind in POSITIONAL]
    problems = []
    named = []
    for place, text in enumerate(split(wanted)):
        name, _, default = text.lstrip(":*").partition("=")
        named.append(name)
        if text.startswith("*"):
            continue
        parameter = parameters.get(name)
        if parameter is None:
            problems += [] if takes_all else [f"{name} is missing"]
            continue
        if not text.startswith(":") and (place >= len(order) or order[place] != name):
            problems.append(f"{name} is not the positional parameter number {place}")
        if default and parameter.default is Parameter.empty:
            problems.append(f"{name} is required")
        elif default and default != "..." and parameter.default != ast.literal_eval(default):
            problems.append(f"the default of {name} is {parameter.default!r}, not {default}")
    kinds = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    extra = [
        n for n, p in parameters.items() if n not in named and p.default is Parameter.empty and p.kind not in kinds
    ]
    return problems + [f"{name} is required, but new" for name in extra]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("module", NAMES)
def test_names_are_there_with_their_parameters(module: str) -> None:
    there = importlib.import_module(module)
    problems = []
    for name, wanted in NAMES[module].items():
        if not hasattr(there, name):
            problems.append(f"{name} is missing")
        elif wanted is not None:
            problems += [f"{name}: {problem}" for problem in differences(getattr(there, name), wanted)]
    assert problems == []


def test_a_missing_a_moved_and_a_changed_parameter_are_noticed() -> None:
    def found(a: int, c: int = 3, *, b: str = "x, y") -> None: ...

    assert differences(found, "a, c=3, :b='x, y'") == []
    assert differences(found, "a, b='x, y', c=4, d=1") == [
        "b is not the positional parameter number 1",
        "c is not the positional parameter number 2",
        "the default of c is 3, not 4",
        "d is missing",
    ]


def test_package_says_its_version_and_its_parts_by_name() -> None:
    import torchtune

    assert torchtune.__version__[0].isdigit()
    assert all(isinstance(name, str) and hasattr(torchtune, name) for name in torchtune.__all__)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_a_module_lists_is_there_once_and_star_imports_work() -> None:
    import torchtune

    found = 0
    for info in pkgutil.walk_packages(torchtune.__path__, "torchtune."):
        listed = (
            None if info.name.endswith("__main__") else getattr(importlib.import_module(info.name), "__all__", None)
        )
        if listed is not None:
            found += 1
            assert len(listed) == len(set(listed)), info.name
            exec(f"from {info.name} import *", space := {})
            assert set(listed) <= set(space), info.name
    assert found > 40
