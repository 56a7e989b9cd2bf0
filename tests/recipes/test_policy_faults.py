"""Runs on preferences and rewards when something goes wrong: losses that are no numbers, SIGTERM, profilers."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from _preference import EvenRecipe, dpo_settings, grpo_settings, make_models, ppo_settings, prompt_row, run, write_rows
from _runs import logged
from omegaconf import DictConfig

from recipes.dpo import DPORecipe
from recipes.grpo import GRPORecipe
from recipes.ppo import PPORecipe
from torchtune.training import NonFiniteLossError

pytestmark = pytest.mark.recipes


@pytest.fixture(autouse=True)
def faulty_components(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    make_models(folder)
    write_rows(folder / "pairs.jsonl")
    (folder / "rows.jsonl").write_text("".join(json.dumps(prompt_row(i)) + "\n" for i in range(6)))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"prompt": f"Film {i} was"}) + "\n" for i in range(8)))
    return folder


def pairs(folder: Path, output: Path, **more: Any) -> DictConfig:
    cfg = dpo_settings(folder, output, lora=True, shuffle=False, epochs=1, **more)
    cfg.dataset.data_files = str(folder / "pairs.jsonl")
    return cfg


def test_pairs_whose_loss_is_no_number_are_named(folder: Path, tmp_path: Path) -> None:
    cfg = pairs(folder, tmp_path, save_every_n_steps=1)
    cfg.loss = {"_component_": "_faulty.NanPairsOnce"}
    with pytest.raises(NonFiniteLossError, match=r"loss of step 2 is nan.* in it, from 0: 2, 3\. "):
        run(DPORecipe, cfg)
    assert (tmp_path / "step_1").is_dir() and not (tmp_path / "step_2").exists()


def test_such_a_step_is_left_out_by_option_and_counted(folder: Path, tmp_path: Path) -> None:
    cfg = pairs(folder, tmp_path, on_nan_loss="skip")
    cfg.loss = {"_component_": "_faulty.NanPairsOnce"}
    recipe = run(DPORecipe, cfg)
    losses = {step: float(value) for step, value in logged(tmp_path).items()}
    assert [step for step, loss in losses.items() if math.isnan(loss)] == [2] and len(losses) == 3
    assert list(logged(tmp_path, "skipped_steps").values()) == ["0", "1", "1"]
    assert all(torch.isfinite(p).all() for p in recipe.policy.parameters)


def test_prompts_whose_reward_is_no_number_are_named(folder: Path, tmp_path: Path) -> None:
    rewards = [{"_component_": "_faulty.NanReward"}]
    cfg = grpo_settings(folder, tmp_path, lora=True, shuffle=False, reward_functions=rewards)
    with pytest.raises(NonFiniteLossError, match=r"loss of step 2 is nan.* in it, from 0: 2, 3\. "):
        run(GRPORecipe, cfg)


def test_answers_whose_score_is_no_number_are_named(folder: Path, tmp_path: Path) -> None:
    cfg = ppo_settings(
        folder, tmp_path, shuffle=False, ppo_batch_size=4, stop_token_ids=[1023], reward_penalty=math.nan
    )
    with pytest.raises(NonFiniteLossError, match=r"loss of step 1 is nan.* in it, from 0: \d, \d, \d, \d\. "):
        run(PPORecipe, cfg)


def test_skipping_is_refused_where_steps_are_taken_in_the_backward_pass(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_nan_loss: skip comes too late with optimizer_in_bwd"):
        run(DPORecipe, pairs(folder, tmp_path, on_nan_loss="skip", optimizer_in_bwd=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "grpo", "ppo"])
def test_sigterm_leaves_a_checkpoint_from_which_the_run_goes_on_the_same(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    def cfg(name: str, resume: bool = False) -> DictConfig:
        make = {"dpo": pairs, "grpo": grpo_settings, "ppo": ppo_settings}[kind]
        return make(folder, tmp_path / name, resume_from_checkpoint=resume)

    recipe_class: Any = {"dpo": DPORecipe, "grpo": EvenRecipe, "ppo": PPORecipe}[kind]
    run(recipe_class, cfg("whole"))
    recipe = recipe_class(cfg("cut"))
    recipe.setup()
    log_metrics = recipe.log_metrics

    def log_and_signal(*args: Any) -> None:
        log_metrics(*args)
        os.kill(os.getpid(), signal.SIGTERM)

    recipe.log_metrics = log_and_signal
    with pytest.raises(SystemExit) as end:
        recipe.train()
    assert end.value.code == 0 and recipe.global_step == 1
    run(recipe_class, cfg("cut", resume=True))
    assert len(logged(tmp_path / "whole")) > 1
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_profiler_of_the_config_runs(folder: Path, tmp_path: Path) -> None:
    profiler = {
        "_component_": "torchtune.training.setup_torch_profiler", "enabled": True, "cpu": True, "cuda": False,
        "output_dir": str(tmp_path / "traces"), "wait_steps": 0, "warmup_steps": 1, "active_steps": 1, "num_cycles": 1,
    }  # fmt: skip
    run(DPORecipe, pairs(folder, tmp_path, profiler=profiler))
    assert list((tmp_path / "traces").rglob("*.json*"))
