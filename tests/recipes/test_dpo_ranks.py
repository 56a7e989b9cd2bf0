"""The recipes on preferences and rewards on two gloo processes, which are started once for all tests here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _preference import (
    EvenRecipe,
    dpo_settings,
    grpo_settings,
    make_models,
    prompt_row,
    run,
    run_on_two_ranks,
    write_rows,
)
from _runs import logged
from omegaconf import OmegaConf

from recipes.dpo import DPORecipe

pytestmark = [pytest.mark.recipes, pytest.mark.slow, pytest.mark.distributed]


def of_preferences(folder: Path, kind: str, number: str, batch_size: int) -> Any:
    output = folder / kind / number
    cfg = dpo_settings(folder, output, lora=kind == "lora", max_steps_per_epoch=None, batch_size=batch_size)
    cfg.dataset.data_files = str(folder / "pairs.jsonl")
    return cfg


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left their logs."""
    folder = tmp_path_factory.mktemp("ranks")
    make_models(folder)
    write_rows(folder / "pairs.jsonl")  # seven: the second process lacks one at the end of an epoch
    (folder / "rows.jsonl").write_text("".join(json.dumps(prompt_row(i)) + "\n" for i in range(6)))
    jobs = [(DPORecipe, of_preferences(folder, kind, "two", 2)) for kind in ("full", "lora")]
    jobs.append((EvenRecipe, grpo_settings(folder, folder / "grpo", tools=True, epochs=1, scale_rewards="batch")))
    paths = [folder / f"{number}.yaml" for number in range(len(jobs))]
    for path, (_, cfg) in zip(paths, jobs, strict=True):
        OmegaConf.save(cfg, path)
    run_on_two_ranks([(recipe, path) for path, (recipe, _) in zip(paths, jobs, strict=True)], folder)
    return folder


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_two_processes_reach_the_loss_of_one(kind: str, folder: Path) -> None:
    run(DPORecipe, of_preferences(folder, kind, "one", 4))
    for metric in ("loss", "rewards/margins", "rewards/accuracies"):
        one, two = (logged(folder / kind / number, metric) for number in ("one", "two"))
        assert len(one) == 4 and two.keys() == one.keys()
        for step in one:
            assert float(two[step]) == pytest.approx(float(one[step]), abs=1e-4), metric


def test_two_processes_sample_and_learn_together(folder: Path) -> None:
    rewards = logged(folder / "grpo", "reward")
    assert len(rewards) == 1  # six rows in batches of two on two ranks
    assert 0 < float(rewards[1]) < 1
