"""GRPO: groups, tools in the loop, normalisations, resuming, ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _preference import EvenRecipe, grpo_settings, make_models, prompt_row, run
from _runs import logged
from omegaconf import DictConfig

from recipes.grpo import CONFIG_KEYS, GRPORecipe
from torchtune.config import check_keys
from torchtune.data import Message
from torchtune.rlhf import prompt_dataset
from torchtune.rlhf._rollout import as_batch, gathered, group_advantages, token_logprobs
from torchtune.rlhf.tools import Episode

pytestmark = pytest.mark.recipes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grpo")
    make_models(folder)
    (folder / "rows.jsonl").write_text("".join(json.dumps(prompt_row(i)) + "\n" for i in range(6)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora of a stream"])
def test_run_resumes_with_the_same_losses(lora: bool, folder: Path, tmp_path: Path) -> None:
    def cfg(name: str, resume: bool = False) -> DictConfig:
        made = grpo_settings(
            folder, tmp_path / name, lora=lora, tools=True, save_every_n_steps=1, resume_from_checkpoint=resume
        )
        made.dataset.streaming = lora
        return made

    assert check_keys(cfg("whole"), CONFIG_KEYS, strict=True) == []
    run(EvenRecipe, cfg("whole"))
    run(EvenRecipe, cfg("killed"), kill_after=1)
    recipe = run(EvenRecipe, cfg("killed", resume=True))
    assert recipe.global_step == 4
    for name in ("loss", "reward", "kl", "response_tokens"):
        assert len(logged(tmp_path / "whole", name)) == 4
        assert logged(tmp_path / "killed", name) == logged(tmp_path / "whole", name)


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        ({"_component_": "torchtune.rlhf.loss.GroupPolicyLoss"}, "group"),
        (
            {"_component_": "torchtune.rlhf.loss.GroupPolicyLoss", "normalize": "token", "epsilon_high": 0.28},
            "batch",
        ),
        (
            {"_component_": "torchtune.rlhf.loss.GroupPolicyLoss", "normalize": "constant", "max_tokens": 6},
            "none",
        ),
        ({"_component_": "torchtune.dev.grpo.loss.GRPOSimpleLoss", "kl_coeff": 0.0}, "group"),
        ({"_component_": "torchtune.dev.grpo.loss.GRPOCompletionLoss", "kl_coeff": 0.0}, "group"),
    ],
    ids=["grpo", "dapo", "dr-grpo", "simple", "completion"],
)
def test_what_was_better_than_its_group_gets_likelier(
    loss: dict[str, Any], scale: str, folder: Path, tmp_path: Path
) -> None:
    cfg = grpo_settings(folder, tmp_path, loss=loss, scale_rewards=scale, ref_checkpointer=None, ppo_epochs=1)
    recipe = EvenRecipe(cfg)
    recipe.setup()
    episodes = recipe.sample([recipe.dataset[i] for i in range(2)])
    advantages = recipe.advantages(recipe.reward(episodes)[0])
    tokens, mask = as_batch(episodes, 0)

    @torch.no_grad()
    def likely() -> torch.Tensor:
        return (token_logprobs(recipe.policy.model, tokens) * mask).sum(-1)

    before = likely()
    recipe.learn(episodes, advantages)
    change = likely() - before
    recipe.cleanup()
    assert advantages.abs().max() > 0.01
    for group in (slice(0, 3), slice(3, 6)):
        assert change[group][advantages[group].argmax()] > change[group][advantages[group].argmin()]


@pytest.mark.slow
def test_rewards_go_up(folder: Path, tmp_path: Path) -> None:
    cfg = grpo_settings(
        folder, tmp_path, loss={"_component_": "torchtune.rlhf.loss.GroupPolicyLoss"}, ref_checkpointer=None, num_steps=None,
        epochs=10, save_every_n_epochs=10, grpo_samples=16, forward_batch_size=32, ppo_epochs=1,
        optimizer={"_component_": "torch.optim.AdamW", "lr": 1e-2},
    )  # fmt: skip
    run(EvenRecipe, cfg)
    rewards = [float(value) for value in logged(tmp_path, "reward").values()]
    assert len(rewards) == 30
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


def test_tools_run_and_what_was_sampled_is_trained(folder: Path, tmp_path: Path) -> None:
    recipe = GRPORecipe(grpo_settings(folder, tmp_path, tools=True))
    recipe.setup()
    control = recipe.tokenizer._control_ids()
    text = '\n{"name": "add", "arguments": {"a": 2, "b": 1}}\n'
    call = [control["<tool_call>"], *recipe.tokenizer.encode(text, add_bos=False, add_eos=False)]
    turns = [[*call, control["</tool_call>"], control["<|im_end|>"]], [77, control["<|im_end|>"]]]

    def scripted(model: Any, contexts: list[list[int]], **_: Any) -> list[list[int]]:
        return [turns[0] if len(c) < longest else turns[1] for c in contexts]

    rows = [recipe.dataset[0]]
    longest = len(recipe.new_episode(rows[0]).prompt) + 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.grpo.generate_tokens", scripted)
        episodes = recipe.sample(rows)
    assert [episode.calls[0].result.value for episode in episodes if episode.calls[0].result] == [3, 3, 3]
    tokens, mask = as_batch(episodes, pad_id=0)
    for episode, ids, trained in zip(episodes, tokens, mask, strict=True):
        assert ids[1:][trained].tolist() == turns[0] + turns[1]
        assert not trained[: len(episode.prompt) - 1].any()
    _, metrics = recipe.reward(episodes)
    assert metrics["tool_calls"] == 1.0 and metrics["ended/answer"] == 1.0
    recipe.cleanup()


def test_calls_that_fail_and_conversations_that_never_end_are_logged(folder: Path, tmp_path: Path) -> None:
    cfg = grpo_settings(folder, tmp_path, tools=True, num_steps=1, epochs=1, max_tool_calls=2)
    cfg.tools.functions = ["sample_tools.fail"]
    recipe = EvenRecipe(cfg)
    recipe.setup()
    control = recipe.tokenizer._control_ids()
    text = '\n{"name": "fail", "arguments": {"reason": "no"}}\n'
    call = [control["<tool_call>"], *recipe.tokenizer.encode(text, add_bos=False, add_eos=False)]
    turn = [*call, control["</tool_call>"], control["<|im_end|>"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.grpo.generate_tokens", lambda model, contexts, **_: [turn for _ in contexts])
        recipe.train()
    recipe.cleanup()
    names = ("tool_calls", "tool_calls_failed", "ended/max_tool_calls", "ended/answer")
    assert [float(logged(tmp_path, name)[1]) for name in names] == [2, 2, 1, 0]


class SomeAlike(EvenRecipe):
    """A sampler of known rewards: of each batch the first prompt's answers are alike, where its number is even."""

    def reward(self, episodes: list[Episode], samples: int | None = None) -> tuple[torch.Tensor, dict[str, float]]:
        _, metrics = super().reward(episodes, samples)
        return torch.tensor([float(i % 3 if (e.number or 0) % 2 else 1) for i, e in enumerate(episodes)]), metrics


def test_groups_that_are_alike_give_way_to_others(folder: Path, tmp_path: Path) -> None:
    loss = {"_component_": "torchtune.rlhf.loss.GroupPolicyLoss"}
    common: Any = {"shuffle": False, "num_steps": None, "loss": loss, "ref_checkpointer": None, "ppo_epochs": 1}
    for more, expected in ((0, [[0, 1], [2, 3], [4, 5]]), (1, [[1, 3], [4, 5]]), (5, [[1, 3], [4, 5]])):
        recipe = SomeAlike(grpo_settings(folder, tmp_path / str(more), dynamic_sampling=more, **common))
        recipe.setup()
        steps = list(recipe.batches(0))
        assert [sorted({e.number for e in episodes}) for episodes, _, _ in steps] == expected
        assert all(len(episodes) == len(rewards) == 6 for episodes, rewards, _ in steps)
        if more:
            assert [metrics["batches_drawn"] for _, _, metrics in steps] == [2, 1]
        recipe.cleanup()


def test_answers_without_an_advantage_are_counted_but_not_run(folder: Path, tmp_path: Path) -> None:
    loss = {"_component_": "torchtune.rlhf.loss.GroupPolicyLoss", "normalize": "token"}
    settings: Any = {"loss": loss, "ref_checkpointer": None, "ppo_epochs": 1, "forward_batch_size": 2}
    recipe = EvenRecipe(grpo_settings(folder, tmp_path, **settings))
    recipe.setup()
    episodes = recipe.sample([recipe.dataset[i] for i in range(2)])
    advantages = torch.tensor([0.0, 0.0, 0.0, 0.7, -1.2, 0.5])
    batches, left_out = recipe.micro_batches(episodes, advantages)
    assert [len(batch.tokens) for batch in batches] == [2, 1]
    assert int(left_out) + sum(int(batch.weight) for batch in batches) == sum(sum(e.sampled) for e in episodes)
    for batch in batches:
        recipe.backward(batch)
    recipe.policy.losses.add(torch.zeros(()), left_out)
    skipped = [p.grad.clone() * recipe.policy.losses.finish().grad_scale for p in recipe.policy.parameters[:1]][0]
    recipe.policy.optimizer.zero_grad()
    recipe.backward(recipe.prepare(list(zip(episodes, advantages, strict=True)), real=True))
    whole = recipe.policy.parameters[0].grad * recipe.policy.losses.finish().grad_scale
    assert torch.allclose(skipped, whole, atol=1e-7) and whole.abs().max() > 0
    recipe.cleanup()


def test_held_out_prompts_are_scored_before_and_after(folder: Path, tmp_path: Path) -> None:
    section = {"dataset": {**grpo_settings(folder, tmp_path).dataset, "split": "train[:5]"}, "batch_size": 2}
    cfg = grpo_settings(folder, tmp_path, lora=True, eval_rewards=section, epochs=1, num_steps=1)
    assert check_keys(cfg, CONFIG_KEYS, strict=True) == []
    recipe = run(EvenRecipe, cfg)
    assert list(recipe.reward_scores) == ["before", "after"]
    steps = logged(tmp_path, "eval/reward")
    assert list(steps) == [0, 1] and all(0 <= float(value) <= 1 for value in steps.values())


def test_log_probabilities_do_not_depend_on_padding(folder: Path, tmp_path: Path) -> None:
    recipe = GRPORecipe(grpo_settings(folder, tmp_path))
    recipe.setup()
    long, short = Episode({}, [11, 12]), Episode({}, [13])
    long.add([14, 15, 16], sampled=True)
    short.add([17], sampled=True)
    tokens, mask = as_batch([long, short], pad_id=0)
    with torch.no_grad(), gathered(recipe.policy.model):
        together = token_logprobs(recipe.policy.model, tokens, 0.5)[1][mask[1]]
        alone = torch.log_softmax(recipe.policy.model(torch.tensor([[13]]))[0, -1] / 0.5, -1)[17]
    assert torch.allclose(together, alone, atol=1e-5)
    recipe.cleanup()


def test_settings_that_make_no_sense_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="grpo_samples is 1"):
        run(GRPORecipe, grpo_settings(folder, tmp_path, grpo_samples=1))
    with pytest.raises(ValueError, match="ref_checkpointer is not set"):
        run(GRPORecipe, grpo_settings(folder, tmp_path, ref_checkpointer=None))
    with pytest.raises(ValueError, match="no loss of this recipe"):
        run(GRPORecipe, grpo_settings(folder, tmp_path, loss={"_component_": "torchtune.rlhf.loss.DPOLoss"}))


def test_advantages_are_relative_to_the_group() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5], [2.0, 2.0, 2.0]])
    grouped = group_advantages(rewards)
    assert grouped[0].tolist() == pytest.approx([1.0, -1.0, 0.0], abs=1e-3) and grouped[1].tolist() == [0, 0, 0]
    assert group_advantages(rewards, "none")[0].tolist() == [0.5, -0.5, 0.0]
    assert group_advantages(rewards, "batch", torch.tensor(2.0))[0, 0].item() == pytest.approx(0.25, abs=1e-4)
    with pytest.raises(ValueError, match="scale_rewards is 'groups'"):
        group_advantages(rewards, "groups")


def test_rows_for_supervised_tuning_serve_as_prompts(folder: Path) -> None:
    sample = prompt_dataset(None, source="json", data_files=str(folder / "rows.jsonl"))[2]  # type: ignore[arg-type]
    assert [message.role for message in sample["messages"]] == ["user"]
    assert isinstance(sample["messages"][0], Message) and "tools" not in sample
    assert sample["row"]["expected_calls"][0]["function"] == {"name": "add", "arguments": {"a": 2, "b": 1}}
    assert sample["row"]["answer"] == "3"


def test_row_without_a_user_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "assistant", "content": "Hi."}]}) + "\n")
    with pytest.raises(ValueError, match="bad.jsonl.*no user message"):
        prompt_dataset(None, source="json", data_files=str(path))[0]  # type: ignore[arg-type]
