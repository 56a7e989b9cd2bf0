"""PPO: full and LoRA, resuming both models, and what the reward model says reaching the policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from _preference import make_models, ppo_settings, run
from _runs import logged
from omegaconf import DictConfig

from recipes.ppo import CONFIG_KEYS, PPORecipe
from torchtune.config import check_keys

pytestmark = pytest.mark.recipes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ppo")
    make_models(folder)
    rows = [{"prompt": f"The film number {i} was"} for i in range(10)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora of a stream"])
def test_run_resumes_both_models_with_the_same_losses(lora: bool, folder: Path, tmp_path: Path) -> None:
    def cfg(name: str, resume: bool = False) -> DictConfig:
        made = ppo_settings(folder, tmp_path / name, lora=lora, save_every_n_steps=1, resume_from_checkpoint=resume)
        made.dataset.streaming = lora
        return made

    assert check_keys(cfg("whole"), CONFIG_KEYS, strict=True) == []
    run(PPORecipe, cfg("whole"))
    run(PPORecipe, cfg("killed"), kill_after=1)
    recipe = run(PPORecipe, cfg("killed", resume=True))
    assert recipe.global_step == 3  # 12 prompts in batches of 4
    for name in ("loss", "value_loss", "scores", "response_lengths"):
        assert len(logged(tmp_path / "whole", name)) == 3
        assert logged(tmp_path / "killed", name) == logged(tmp_path / "whole", name)
    assert (tmp_path / "killed" / "value").is_dir()


def test_steps_in_the_backward_pass_train_both_models(folder: Path, tmp_path: Path) -> None:
    recipe = PPORecipe(ppo_settings(folder, tmp_path, optimizer_in_bwd=True, num_steps=4))
    recipe.setup()
    before = [[p.clone() for p in trained.model.parameters()] for trained in (recipe.policy, recipe.value)]
    recipe.train()
    recipe.cleanup()
    for trained, weights in zip((recipe.policy, recipe.value), before, strict=True):
        assert not all(torch.equal(p, w) for p, w in zip(trained.model.parameters(), weights, strict=True))


def test_answers_are_judged_where_they_stand(folder: Path, tmp_path: Path) -> None:
    recipe = PPORecipe(ppo_settings(folder, tmp_path))
    recipe.setup()
    prompts, answers = [[11, 12, 13], [14]], [[21, 22], [23, 24, 5]]
    tokens, places, mask = recipe.as_batch(prompts, answers)
    with torch.no_grad():
        logprobs, _, values, scores = recipe._judge(tokens, places, mask)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = torch.tensor([prompt + answer])
            logits = torch.log_softmax(recipe.policy.model(ids)[0] / 0.7, -1)
            expected = [logits[len(prompt) + j - 1, token] for j, token in enumerate(answer)]
            assert torch.allclose(logprobs[row, mask[row]], torch.stack(expected), atol=1e-5)
            every = recipe.value.model(ids)[0, :, 0]
            assert torch.allclose(values[row, mask[row]], every[len(prompt) - 1 : -1], atol=1e-5)
            assert torch.allclose(scores[row], recipe.reward_model(ids)[0, -1, 0], atol=1e-5)
    recipe.cleanup()


def test_answers_without_an_end_get_the_penalty(folder: Path, tmp_path: Path) -> None:
    run(PPORecipe, ppo_settings(folder, tmp_path, stop_token_ids=[1023], num_steps=4, max_generated_tokens=3))
    assert float(logged(tmp_path, "scores")[1]) == pytest.approx(-3.0)
    assert float(logged(tmp_path, "penalised")[1]) == 1.0


def test_sizes_that_do_not_divide_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size \(4\) must be a multiple of ppo_batch_size \(3\)"):
        run(PPORecipe, ppo_settings(folder, tmp_path, ppo_batch_size=3))
    with pytest.raises(ValueError, match="num_steps counts prompts"):
        run(PPORecipe, ppo_settings(folder, tmp_path, num_steps=3))
    with pytest.raises(ValueError, match="ref_policy_checkpointer is not set"):
        run(PPORecipe, ppo_settings(folder, tmp_path, ref_policy_checkpointer=None))
