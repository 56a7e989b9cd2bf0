from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchtune import _recipe_registry as registry
from torchtune._cli import run as cli_run
from torchtune._cli.tune import main, make_parser

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
import os, sys
from torchtune import config

@config.parse
def main(cfg):
    print(f"rank {os.environ.get('RANK')} a={cfg.a} main={__name__} file={__file__}", flush=True)

if __name__ == "__main__":
    main()
"""
QUICKSTART = "quickstart/tool_calling"


@pytest.fixture(autouse=True)
def _own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("my_recipe.py").write_text(RECIPE)
    Path("c.yaml").write_text("a: 1\n")


def tune(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tune", "run", *argv])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been started: (script, arguments, is_module), or torchrun's command line."""
    seen: list[Any] = []
    monkeypatch.setattr(cli_run, "_run_here", lambda *args: seen.append(args))
    monkeypatch.setattr(cli_run, "_run_torchrun", seen.append)
    return seen


@pytest.mark.parametrize("recipe", ["my_recipe.py", "./my_recipe.py", "my_recipe"])
def test_a_recipe_of_ones_own_runs_in_this_process(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(monkeypatch, recipe, "--config", "c.yaml", "a=5") == 0
    assert capsys.readouterr().out.startswith("rank None a=5 main=__main__ file=")


def test_a_registered_recipe_gets_files_and_overrides(monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
    assert tune(monkeypatch, "full_finetune_single_device", "--config", QUICKSTART, "epochs=2", "~seed") == 0
    recipe = registry.find_recipe("full_finetune_single_device")
    assert recipe is not None
    config = str(registry.find_config(QUICKSTART))
    assert started == [(str(registry.recipe_file(recipe)), ["--config", config, "epochs=2", "~seed"], False)]


@pytest.mark.parametrize("args", [["--config=c.yaml", "a=2"], ["a=2", "--config", "c.yaml"]])
def test_the_config_may_stand_anywhere(args: list[str], monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
    assert tune(monkeypatch, "my_recipe.py", *args) == 0
    assert sorted(started[0][1]) == ["--config", "a=2", "c.yaml"]


def test_options_before_the_recipe_go_to_torchrun(monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
    argv = [
        "--nnodes",
        "2",
        "--nproc_per_node=4",
        "--rdzv-endpoint",
        "h:1",
        "full_finetune_distributed",
        "--config",
        "c.yaml",
    ]
    assert tune(monkeypatch, *argv) == 0
    (command,) = started
    assert command[:3] == ["--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=h:1"]
    assert command[3].endswith("finetune.py")
    assert command[4:] == ["--config", "c.yaml"]


def test_processes_of_one_machine_meet_on_a_free_port(monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
    assert tune(monkeypatch, "--nproc-per-node", "2", "my_recipe.py", "--config", "c.yaml") == 0
    assert started == [["--nproc-per-node=2", "--standalone", "my_recipe.py", "--config", "c.yaml"]]


@pytest.mark.distributed
def test_two_processes_run_a_recipe() -> None:
    command = [
        sys.executable,
        "-m",
        "torchtune",
        "run",
        "--nproc-per-node",
        "2",
        "my_recipe.py",
        "--config",
        "c.yaml",
        "a=7",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    # Two processes write to one pipe: their lines may run into each other.
    assert sorted(re.findall(r"rank \d a=7", done.stdout)) == ["rank 0 a=7", "rank 1 a=7"]


def test_the_table_of_torchrun_options_is_complete() -> None:
    from torch.distributed.run import get_args_parser

    ours = next(a for a in make_parser()._actions if a.dest == "==SUPPRESS==").choices["run"]  # type: ignore[union-attr,index]
    known = {flag: action for action in ours._actions for flag in action.option_strings}
    for action in get_args_parser()._actions:
        for flag in action.option_strings:
            assert flag in known
            assert (known[flag].nargs == 0) == (action.nargs == 0)
            assert known[flag].choices == (None if action.choices is None else tuple(action.choices))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: recipe, recipe_args"),
        (["full_finetune_single_device"], "The '--config' argument is required."),
        (["full_finetune_single_device", "--config"], "The '--config' argument needs a value"),
        (
            ["full_finetune_single_device", "--config", "quickstart/tool_caling"],
            "Did you mean 'quickstart/tool_calling'?",
        ),
        (
            ["--nproc_per_node", "2", "full_finetune_single_device", "--config", QUICKSTART],
            "Recipe full_finetune_single_device does not support distributed training.Please run without torchrun commands.",
        ),
    ],
)
def test_refusals(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(monkeypatch, *argv) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("tune run: error: ")
    assert message in last


PLAIN = "llama3_2/1B_lora_single_device"


@pytest.mark.parametrize(
    "given", [[], ["teacher_model._component_=x"], ["teacher_model=null", "kd_loss._component_=y"]]
)
@pytest.mark.parametrize("recipe", ["knowledge_distillation_single_device", "qat_single_device"])
def test_a_config_of_another_recipe_is_refused(
    recipe: str,
    given: list[str],
    monkeypatch: pytest.MonkeyPatch,
    started: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune(monkeypatch, recipe, "--config", PLAIN, *given) == 2
    error = capsys.readouterr().err
    assert "The config is one of another recipe: it lacks " in error and f"which {recipe} needs" in error
    assert started == []


@pytest.mark.parametrize("given", [[], ["model=torchtune.models.llama3_2.llama3_2_1b"], ["~model", "model.x=1"]])
def test_a_recipe_for_adapters_refuses_a_model_without_one(
    given: list[str], monkeypatch: pytest.MonkeyPatch, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    refused = "model.x=1" not in given  # a component of one's own may have an adapter by any name
    assert tune(monkeypatch, "lora_finetune_single_device", "--config", "llama3_2/1B_full", *given) == (
        2 if refused else 0
    )
    assert ("lacks an adapter in model" in capsys.readouterr().err) == refused
    assert bool(started) != refused


def test_an_override_of_the_model_gives_a_config_its_adapter(
    monkeypatch: pytest.MonkeyPatch, started: list[Any]
) -> None:
    given = ["model=torchtune.models.llama3_2.lora_llama3_2_1b", "model.lora_attn_modules=[q_proj]"]
    assert tune(monkeypatch, "lora_finetune_single_device", "--config", "llama3_2/1B_full", *given) == 0
    assert len(started) == 1


def test_overrides_can_make_a_config_one_of_a_recipe(monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
    keys = [f"{key}._component_=x" for key in ("teacher_model", "teacher_checkpointer", "kd_loss")]
    assert tune(monkeypatch, "knowledge_distillation_single_device", *keys, "--config", PLAIN) == 0
    assert tune(monkeypatch, "knowledge_distillation_single_device", "--config", PLAIN, *keys) == 0
    assert len(started) == 2
    assert tune(monkeypatch, "qat_single_device", "--config", "qwen2_5/3B_qat_single_device", "~quantizer") == 2


def test_an_unknown_recipe_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(monkeypatch, "no_such_recipe", "--config", "c.yaml") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "ImportError: No module named no_such_recipe"


def test_an_error_in_a_recipe_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_recipe.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        tune(monkeypatch, "my_recipe.py", "--config", "c.yaml")
