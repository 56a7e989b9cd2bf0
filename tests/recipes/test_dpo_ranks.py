"""The recipes on preferences and rewards on two gloo processes, which are started once for all tests here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _preference import (
    EvenRecipe,
    ScriptedRecipe,
    dpo_settings,
    grpo_settings,
    make_models,
    ppo_settings,
    prompt_row,
    run,
    run_on_two_ranks,
    write_rows,
)
from _runs import logged
from omegaconf import OmegaConf

from recipes.dpo import DPORecipe
from recipes.ppo import PPORecipe

pytestmark = [pytest.mark.recipes, pytest.mark.slow, pytest.mark.distributed]


GROUP_LOSS = "torchtune.rlhf.loss.GroupPolicyLoss"


def assert_same(folder: Path, steps: int, *metrics: str) -> None:
    """One process and two logged the same."""
    for metric in metrics:
        one, two = (logged(folder / number, metric) for number in ("one", "two"))
        assert len(one) == steps and two.keys() == one.keys()
        for step in one:
            assert float(two[step]) == pytest.approx(float(one[step]), abs=1e-4), (metric, step)


def of_preferences(folder: Path, kind: str, number: str, batch_size: int) -> Any:
    output = folder / kind / number
    cfg = dpo_settings(folder, output, lora=kind == "lora", max_steps_per_epoch=None, batch_size=batch_size)
    cfg.dataset.data_files = str(folder / "pairs.jsonl")
    return cfg


METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"ppo_epochs": 2},
    "dapo": {"loss": {"_component_": GROUP_LOSS, "normalize": "token", "epsilon_high": 0.28}, "forward_batch_size": 3},
    "dr-grpo": {"loss": {"_component_": GROUP_LOSS, "normalize": "constant", "max_tokens": 6}, "scale_rewards": "none"},
    "some-groups-alike": {"loss": {"_component_": GROUP_LOSS}, "seed": 6, "scale_rewards": "batch"},
}


def of_rewards(folder: Path, method: str, number: str, batch_size: int) -> Any:
    more = {"num_steps": None, "epochs": 1, **METHODS[method]}
    lora = "loss" not in more  # the model without its adapter is the reference
    return grpo_settings(folder, folder / method / number, lora=lora, batch_size=batch_size, **more)


def of_a_reward_model(folder: Path, number: str, batch_size: int) -> Any:
    return ppo_settings(
        folder, folder / "ppo" / number, batch_size=batch_size, ppo_batch_size=batch_size, ppo_epochs=2, num_steps=8, top_k=1,
        whiten_rewards=True, clip_grad_norm=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left their logs."""
    folder = tmp_path_factory.mktemp("ranks")
    make_models(folder)
    write_rows(folder / "pairs.jsonl")  # seven: the second process lacks one at the end of an epoch
    (folder / "rows.jsonl").write_text("".join(json.dumps(prompt_row(i)) + "\n" for i in range(6)))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"prompt": f"The film {i} was"}) + "\n" for i in range(8)))
    jobs = [(DPORecipe, of_preferences(folder, kind, "two", 2)) for kind in ("full", "lora")]
    jobs.append((EvenRecipe, grpo_settings(folder, folder / "grpo", tools=True, epochs=1, scale_rewards="batch")))
    jobs += [(ScriptedRecipe, of_rewards(folder, method, "two", 1)) for method in METHODS]
    jobs.append((PPORecipe, of_a_reward_model(folder, "two", 2)))
    paths = [folder / f"{number}.yaml" for number in range(len(jobs))]
    for path, (_, cfg) in zip(paths, jobs, strict=True):
        OmegaConf.save(cfg, path)
    run_on_two_ranks([(recipe, path) for path, (recipe, _) in zip(paths, jobs, strict=True)], folder)
    return folder


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_two_processes_reach_the_loss_of_one(kind: str, folder: Path) -> None:
    run(DPORecipe, of_preferences(folder, kind, "one", 4))
    assert_same(folder / kind, 4, "loss", "rewards/margins", "rewards/accuracies")


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_learn_from_rewards_as_one_does(method: str, folder: Path) -> None:
    run(ScriptedRecipe, of_rewards(folder, method, "one", 2))
    assert_same(folder / method, 3, "loss", "reward", "groups_alike", "policy_objective", "grad_norm")


def test_two_processes_learn_from_a_reward_model_as_one_does(folder: Path) -> None:
    run(PPORecipe, of_a_reward_model(folder, "one", 4))
    assert_same(folder / "ppo", 2, "loss", "scores", "value_loss", "kl", "response_lengths", "grad_norm")


def test_two_processes_sample_and_learn_together(folder: Path) -> None:
    rewards = logged(folder / "grpo", "reward")
    assert len(rewards) == 1  # six rows in batches of two on two ranks
    assert 0 < float(rewards[1]) < 1
