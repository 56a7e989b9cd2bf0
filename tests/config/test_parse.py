from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from torchtune.config import parse
from torchtune.config._parse import TuneRecipeArgumentParser
from torchtune.config._utils import _merge_yaml_and_cli_args, _remove_key_by_dotpath

TEXT = """
a: 1
b: {_component_: torch.optim.AdamW, lr: 1e-4, fused: true}
c: {d: {e: [1, {f: 2}]}}
name: run
out: ${name}/x
files: {max_filename: '00003'}
"""
CONFIG: dict[str, Any] = {"a": 1, "b": {"_component_": "x.y", "c": 3}, "d": {"e": 4, "f": [1, {"g": 2}]}, "name": "run"}


def merge(*overrides: str) -> DictConfig:
    import copy

    return _merge_yaml_and_cli_args(Namespace(**copy.deepcopy(CONFIG)), list(overrides))


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> DictConfig:
    seen: list[DictConfig] = []
    monkeypatch.setattr(sys, "argv", ["recipe.py", *argv])
    with pytest.raises(SystemExit):
        parse(seen.append)()
    return seen[0]


def test_main_gets_the_config_with_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text(TEXT)
    cfg = run(monkeypatch, "--config", str(tmp_path / "c.yaml"), "name=other", "b.lr=2e-5", "~c.d")
    assert cfg.out == "other/x"
    assert cfg.b.lr == 2e-5
    assert cfg.c == {}


def test_what_main_returns_is_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text("a: 1\n")
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--config", str(tmp_path / "c.yaml")])
    with pytest.raises(SystemExit) as end:
        parse(lambda cfg: 3)()
    assert end.value.code == 3


def test_a_config_of_the_registry_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "checkpointer" in run(monkeypatch, "--config", "quickstart/tool_calling")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("a=None", "a", None),
        ("a=", "a", None),
        ("a=x=y", "a", "x=y"),
        ("a=https://h/p?q=1&r=2", "a", "https://h/p?q=1&r=2"),
        ("a='4'", "a", "4"),
        ("a=1e-5", "a", 1e-5),
        ("a=[x,2]", "a", ["x", 2]),
        ("new.deep.key=3", "new", {"deep": {"key": 3}}),
        ("d={g: 1}", "d", {"e": 4, "f": [1, {"g": 2}], "g": 1}),
        ("d.f[1].g=5", "d", {"e": 4, "f": [1, {"g": 5}]}),
        ("files.max_filename=00012", "files", {"max_filename": "00012"}),
        ("b=p.q", "b", {"_component_": "p.q", "c": 3}),
        ("b.c=4", "b", {"_component_": "x.y", "c": 4}),
        ("b=null", "b", None),
        ("b=false", "b", False),
        ("b=[{_component_: p.q}, {_component_: r.s}]", "b", [{"_component_": "p.q"}, {"_component_": "r.s"}]),
        ("d.f={g: 1}", "d", {"e": 4, "f": {"g": 1}}),
        ("d=[1]", "d", [1]),
    ],
)
def test_an_override_is_yaml(override: str, key: str, value: object) -> None:
    assert merge(override)[key] == value


def test_the_last_of_two_overrides_wins() -> None:
    assert merge("a=2", "a=3").a == 3


def test_a_key_can_be_removed_and_another_set() -> None:
    assert merge("~d.e", "d.h=1").d == {"f": [1, {"g": 2}], "h": 1}


def test_interpolations_stay_until_they_are_read() -> None:
    cfg = merge("path=${name}/logs", "name=z")
    assert cfg.path == "z/logs"


@pytest.mark.parametrize("override", ["a", "=1", "a b"])
def test_an_override_without_a_value_is_refused(override: str) -> None:
    with pytest.raises(ValueError, match="Command-line overrides must be in the form of key=value"):
        merge(override)


def test_a_value_that_is_no_yaml_names_its_key() -> None:
    with pytest.raises(ValueError, match=r"override 'a=\[x' is not valid YAML"):
        merge("a=[x")


def test_a_component_cannot_be_removed() -> None:
    for key in ("b", "b._component_"):
        with pytest.raises(ValueError, match="Removing components from CLI is not supported"):
            merge(f"~{key}")


def test_removing_a_missing_key_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="Could not find key nane in yaml config to remove.*Did you mean 'name'"):
        merge("~nane")


def test_remove_by_dotpath() -> None:
    config: dict[str, Any] = {"a": 1, "b": {"_component_": 2, "c": 3}, "d": {"e": {"f": 1, "g": 2}}}
    _remove_key_by_dotpath(config, "d.e.f")
    assert config["d"] == {"e": {"g": 2}}
    with pytest.raises(KeyError, match="'i'"):
        _remove_key_by_dotpath(config, "d.i")
    with pytest.raises(TypeError, match="'int' object is not subscriptable"):
        _remove_key_by_dotpath(config, "a.b")


def test_flags_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(TEXT)
    with pytest.raises(ValueError, match="Additional flag arguments not supported"):
        TuneRecipeArgumentParser().parse_known_args(["--config", str(tmp_path / "c.yaml"), "--a", "3"])


def test_config_is_required() -> None:
    with pytest.raises(SystemExit) as end:
        TuneRecipeArgumentParser().parse_known_args(["a=1"])
    assert end.value.code == 2


def test_a_key_named_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("config: 1\n")
    with pytest.raises(AssertionError, match="reserved"):
        TuneRecipeArgumentParser().parse_known_args(["--config", str(tmp_path / "c.yaml")])


def test_a_file_of_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("[1, 2]\n")
    with pytest.raises(ValueError, match="expected keys with values"):
        TuneRecipeArgumentParser().parse_known_args(["--config", str(tmp_path / "c.yaml")])
