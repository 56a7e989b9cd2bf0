"""The recipe on preferences: every loss, resuming, LoRA without a second model, ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _preference import dpo_settings, make_models, run, write_rows
from _runs import logged
from omegaconf import DictConfig

from recipes.dpo import CONFIG_KEYS, DPORecipe
from torchtune.config import check_keys
from torchtune.rlhf._preferences import mismatched

pytestmark = pytest.mark.recipes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preference")
    make_models(folder)
    write_rows(folder / "rows.jsonl")
    return folder


@pytest.mark.parametrize("loss", ["DPOLoss", "RSOLoss", "IPOLoss", "SimPOLoss", "ORPOLoss", "KTOLoss"])
def test_every_loss_learns_which_answers_were_chosen(loss: str, folder: Path, tmp_path: Path) -> None:
    cfg = dpo_settings(folder, tmp_path, loss=loss, epochs=4, save_every_n_epochs=4)
    if loss in ("SimPOLoss", "ORPOLoss"):
        del cfg["ref_checkpointer"]  # they need none
    assert check_keys(cfg, CONFIG_KEYS, strict=True) == []
    run(DPORecipe, cfg)
    losses = [float(value) for value in logged(tmp_path).values()]
    margins = [float(value) for value in logged(tmp_path, "rewards/margins").values()]
    assert len(losses) == 12
    assert sum(losses[-3:]) < sum(losses[:3])
    assert sum(margins[-3:]) > sum(margins[:3])


def test_first_loss_without_training_is_log_two(folder: Path, tmp_path: Path) -> None:
    run(DPORecipe, dpo_settings(folder, tmp_path, lora=True, epochs=1, max_steps_per_epoch=1))
    assert float(logged(tmp_path)[1]) == pytest.approx(0.6931472, abs=1e-6)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_run_resumes_with_the_same_losses(lora: bool, folder: Path, tmp_path: Path) -> None:
    def cfg(name: str, resume: bool = False) -> DictConfig:
        return dpo_settings(folder, tmp_path / name, lora=lora, save_every_n_steps=2, resume_from_checkpoint=resume)

    run(DPORecipe, cfg("whole"))
    run(DPORecipe, cfg("killed"), kill_after=2)
    recipe = run(DPORecipe, cfg("killed", resume=True))
    assert recipe.global_step == 6
    assert len(logged(tmp_path / "whole")) == 6
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")


def test_sigterm_saves_and_ends_with_zero(folder: Path, tmp_path: Path) -> None:
    recipe = DPORecipe(dpo_settings(folder, tmp_path, lora=True))
    recipe.setup()
    recipe.stop.received = True
    with pytest.raises(SystemExit) as end:
        recipe.train()
    assert end.value.code == 0
    resumed = run(DPORecipe, dpo_settings(folder, tmp_path, lora=True, resume_from_checkpoint=True))
    assert resumed.global_step == 6 and len(logged(tmp_path)) == 6


def test_accumulated_batches_equal_one(folder: Path, tmp_path: Path) -> None:
    common: Any = {"epochs": 1, "shuffle": False, "clip_grad_norm": 1.0, "max_steps_per_epoch": 2}
    run(DPORecipe, dpo_settings(folder, tmp_path / "one", batch_size=4, **common))
    run(DPORecipe, dpo_settings(folder, tmp_path / "two", batch_size=2, gradient_accumulation_steps=2, **common))
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert [float(two[step]) for step in (1, 2)] == pytest.approx([float(one[step]) for step in (1, 2)], abs=1e-5)
    norms = [logged(tmp_path / name, "grad_norm") for name in ("one", "two")]
    assert [float(v) for v in norms[1].values()] == pytest.approx([float(v) for v in norms[0].values()], rel=1e-4)


def test_full_run_without_a_reference_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ref_checkpointer is not set"):
        run(DPORecipe, dpo_settings(folder, tmp_path, ref_checkpointer=None))
    with pytest.raises(ValueError, match="no preference loss"):
        run(DPORecipe, dpo_settings(folder, tmp_path, loss="PPOLoss"))


def test_prompts_are_paired_with_the_answer_before() -> None:
    tokens = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 0], [9, 9, 0, 0, 0], [6, 8, 8, 8, 0]])
    labels = torch.tensor([[-100, -100, 3, -100, -100], [-100, 5, 6, 7, -100], [-100] * 5, [-100, -100, 8, 8, -100]])
    ids, targets = mismatched(tokens, labels, pad_id=0)  # type: ignore[misc]
    assert ids.tolist() == [[1, 2, 8, 8, 0], [4, 3, 0, 0, 0], [6, 8, 5, 6, 7]]
    assert targets.tolist() == [[-100, -100, 8, 8, -100], [-100, 3, -100, -100, -100], [-100, -100, 5, 6, 7]]
    assert mismatched(tokens[:1], labels[:1], pad_id=0) is None
