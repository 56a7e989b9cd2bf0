"""``tune`` as a whole: what it prints, how it ends, how fast it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchtune import _recipe_registry as registry
from torchtune._cli.tune import main

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "omegaconf", "yaml", "huggingface_hub", "transformers", "datasets")
PROBE = f"""
import json, sys
sys.argv[0] = "tune"
from torchtune._cli.tune import main
try:
    main()
except SystemExit:
    pass
print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)
"""


def tune(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    """Runs ``tune`` in this process and gives its exit status."""
    monkeypatch.setattr(sys, "argv", ["tune", *argv])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def start(*argv: str, code: str = PROBE) -> tuple[subprocess.CompletedProcess[str], float]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = os.times()
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, env=env, check=True)
    ended = os.times()
    # CPU time, which does not count what else the machine does.
    used = ended.children_user + ended.children_system - began.children_user - began.children_system
    return done, used


@pytest.mark.parametrize(
    "argv", [("--help",), ("ls",), (), ("run", "--help"), ("cp", "--help"), ("download", "--help")]
)
def test_commands_start_without_any_library(argv: tuple[str, ...]) -> None:
    done, _ = start(*argv)
    assert json.loads(done.stderr.splitlines()[-1]) == []


@pytest.mark.parametrize("command", ["--help", "ls"])
def test_commands_start_quickly(command: str) -> None:
    bare = min(start(code="pass")[1] for _ in range(3))
    ours = min(start(command)[1] for _ in range(5))
    # The goal is 0.3 s in all; a slow or crowded processor is slow for a bare Python too.
    assert ours < max(0.3, 8 * bare)


def test_cat_and_validate_of_a_plain_config_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: {_component_: fractions.Fraction}\n")
    for command in ("cat", "validate"):
        done, _ = start(command, str(tmp_path / "c.yaml"))
        assert "torch" not in json.loads(done.stderr.splitlines()[-1])


def test_python_m_torchtune_is_tune() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torchtune", "ls"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.startswith("RECIPE ")


def test_no_subcommand_prints_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(monkeypatch) == 0
    assert capsys.readouterr().out.startswith("usage: tune [-h] {download,ls,cp,run,validate,cat")


def test_an_unknown_subcommand_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(monkeypatch, "no_such_command") == 2
    assert "invalid choice: 'no_such_command'" in capsys.readouterr().err


def test_ls_shows_a_recipe_once_and_each_of_its_configs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(monkeypatch, "ls") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == f"{'RECIPE':<40} {'CONFIG':<40}"
    recipes = registry.get_all_recipes()
    assert [line.split()[0] for line in lines if line[0] != " "] == [recipe.name for recipe in recipes]
    assert [line.split()[-1] for line in lines] == [
        name for recipe in recipes for name in [c.name for c in recipe.configs] or ["<>"]
    ]


class TestCat:
    def test_prints_a_config_without_comments(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert tune(monkeypatch, "cat", "quickstart/tool_calling") == 0
        printed = capsys.readouterr().out
        assert "model:\n  _component_: " in printed
        assert "#" not in printed

    def test_sorts_the_keys(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "c.yaml").write_text("b: ${a}\na: 1\n")
        assert tune(monkeypatch, "cat", str(tmp_path / "c.yaml")) == 0
        assert tune(monkeypatch, "cat", "--sort", str(tmp_path / "c.yaml")) == 0
        assert capsys.readouterr().out == "b: ${a}\na: 1\na: 1\nb: ${a}\n"

    def test_a_recipe_is_no_config(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert tune(monkeypatch, "cat", "full_finetune_distributed") == 0
        expected = "'full_finetune_distributed' is a recipe, not a config. Please use a config name.\n"
        assert capsys.readouterr().out == expected

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no_such", "Invalid config format: 'no_such'. Must be YAML (.yaml/.yml)"),
            ("text.txt", "Invalid config format: 'text.txt'. Must be YAML (.yaml/.yml)"),
            ("no_such.yaml", "Config 'no_such.yaml' not found."),
        ],
    )
    def test_refusals(
        self, name: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert tune(monkeypatch, "cat", name) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"tune cat: error: {message}"

    def test_broken_yaml_is_refused_with_its_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "c.yaml").write_text("a: [1\nb: 2\n")
        assert tune(monkeypatch, "cat", str(tmp_path / "c.yaml")) == 2
        assert "line 2" in capsys.readouterr().err


class TestCp:
    @pytest.fixture(autouse=True)
    def _in_tmp(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("file", "destination", "written"),
        [
            ("quickstart/tool_calling", "copy.yaml", "copy.yaml"),
            ("quickstart/tool_calling", "copy2", "copy2.yaml"),
            ("quickstart/tool_calling", ".", "./tool_calling.yaml"),
            ("full_finetune_distributed", ".", "./full_finetune_distributed.py"),
            ("full_finetune_single_device", "sub", "sub/full_finetune_single_device.py"),
        ],
    )
    def test_says_where_it_copied_to(
        self,
        file: str,
        destination: str,
        written: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        Path("sub").mkdir()
        assert tune(monkeypatch, "cp", file, destination) == 0
        assert capsys.readouterr().out == f"Copied file to {written}\n"
        recipe = registry.find_recipe(file)
        source = registry.recipe_file(recipe) if recipe else registry.find_config(file)
        assert source is not None
        assert Path(written).read_bytes() == source.read_bytes()

    def test_no_clobber_leaves_a_file(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("mine.yaml").write_text("mine")
        assert tune(monkeypatch, "cp", "quickstart/tool_calling", "mine.yaml", "-n") == 0
        assert Path("mine.yaml").read_text() == "mine"
        assert capsys.readouterr().out == f"File already exists at {Path.cwd()}/mine.yaml, not overwriting.\n"

    def test_parents_are_made_on_request_only(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert tune(monkeypatch, "cp", "quickstart/tool_calling", "a/b/c.yaml") == 2
        assert (
            capsys.readouterr()
            .err.splitlines()[-1]
            .startswith("tune cp: error: Cannot create regular file: 'a/b/c.yaml'. No such file or directory.")
        )
        assert tune(monkeypatch, "cp", "quickstart/tool_calling", "a/b/c.yaml", "--make-parents") == 0
        assert Path("a/b/c.yaml").is_file()

    def test_an_unknown_name_is_refused_with_the_nearest(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert tune(monkeypatch, "cp", "full_finetune_distribute", ".") == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("tune cp: error: Invalid file name: full_finetune_distribute. Try `tune ls` to see")
        assert message.endswith("Did you mean 'full_finetune_distributed'?")

    @pytest.mark.parametrize(
        "name", ["../secret.yaml", "{folder}/secret.yaml", "quickstart/../../secret", "configs/x", ""]
    )
    def test_files_that_are_not_listed_are_never_copied(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "secret.yaml").write_text("a: 1")
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        assert tune(monkeypatch, "cp", name.format(folder=tmp_path), "copied.yaml") == 2
        assert "Invalid file name" in capsys.readouterr().err
        assert not Path("copied.yaml").exists()


class TestValidate:
    @pytest.fixture(autouse=True)
    def _in_tmp(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_a_good_config(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        Path("good.yaml").write_text("model:\n  _component_: fractions.Fraction\n")
        assert tune(monkeypatch, "validate", "good.yaml") == 0
        assert capsys.readouterr().out == "Config is well-formed!\n"

    def test_a_wrong_argument(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        Path("bad.yaml").write_text("a:\n  model:\n    _component_: shutil.copyfile\n    nonsense: 1\n")
        assert tune(monkeypatch, "validate", "bad.yaml") == 2
        *_, where, what = capsys.readouterr().err.splitlines()
        assert where == "config key 'a.model' in bad.yaml:"
        assert what == "TypeError: copyfile got an unexpected keyword argument 'nonsense'"

    def test_a_component_that_is_not_there(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("missing.yaml").write_text("model: {_component_: os.path.no_such}\n")
        assert tune(monkeypatch, "validate", "missing.yaml") == 1
        expected = "torchtune.config._errors.InstantiationError: Module 'os.path' has no attribute 'no_such'."
        assert capsys.readouterr().err.splitlines()[-1] == expected

    def test_a_file_that_is_not_there(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert tune(monkeypatch, "validate", "absent.yaml") == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == f"FileNotFoundError: [Errno 2] No such file or directory: '{Path.cwd()}/absent.yaml'"

    @pytest.mark.parametrize(("text", "status", "message"), [("a: [1\nb: 2", 1, "line 2"), ("[1, 2]", 2, "no keys")])
    def test_what_is_no_config(
        self,
        text: str,
        status: int,
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        Path("c.yaml").write_text(text)
        assert tune(monkeypatch, "validate", "c.yaml") == status
        assert message in capsys.readouterr().err

    def test_keys_are_checked_against_a_recipe(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("r.py").write_text("CONFIG_KEYS = frozenset({'batch_size'})\n")
        Path("c.yaml").write_text("batchsize: 1\n")
        assert tune(monkeypatch, "validate", "c.yaml", "--recipe", "r.py") == 0
        warning = "warning: c.yaml: unknown config key 'batchsize'. Did you mean 'batch_size'?\n"
        assert capsys.readouterr().err == warning
        Path("c.yaml").write_text("batchsize: 1\nstrict: true\n")
        assert tune(monkeypatch, "validate", "c.yaml", "--recipe", "r.py") == 2
        assert tune(monkeypatch, "validate", "c.yaml", "--recipe", "no_such") == 2
        assert "no recipe 'no_such'" in capsys.readouterr().err

    def test_a_config_lacks_what_makes_the_recipe(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config, recipe = "llama3_2/1B_lora_single_device", "knowledge_distillation_single_device"
        assert tune(monkeypatch, "validate", config, "--recipe", recipe) == 2
        assert "it lacks teacher_model, teacher_checkpointer, kd_loss" in capsys.readouterr().err
