"""GRPO under torchtune's names: losses that torchtune got wrong, rewards, prompts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from torchtune.dev.grpo import generation, rewards
from torchtune.dev.grpo.data import BASE_PROMPT, padded_collate_rl
from torchtune.dev.grpo.gsm8k import gsm8k_dataset, gsm8k_sft
from torchtune.dev.grpo.loss import GRPOCompletionLoss, GRPOLoss, GRPOSimpleLoss, GRPOWithChunkedOutputLoss


@pytest.mark.parametrize("kind", [GRPOLoss, GRPOSimpleLoss, GRPOCompletionLoss])
def test_padding_masks_are_optional(kind: type[GRPOLoss]) -> None:
    old, new, ref = (-torch.rand(2, 4) for _ in range(3))
    advantages, full = torch.tensor([1.0, -0.5]), torch.ones(2, 4, dtype=torch.bool)
    loss = kind()
    assert torch.allclose(loss(old, new, ref, advantages)[0], loss(old, new, ref, advantages, full)[0])


def test_completion_loss_has_one_ratio_for_each_completion() -> None:
    old, new = torch.tensor([[-1.0, -1.0], [-2.0, -9.0]]), torch.tensor([[-0.5, -1.0], [-2.2, -1.0]])
    mask = torch.tensor([[True, True], [True, False]])
    loss, policy, _, ratios, _ = GRPOCompletionLoss(epsilon=10.0, kl_coeff=0.0)(
        old, new, new, torch.tensor([1.0, 2.0]), mask
    )
    expected = torch.tensor([0.5, -0.2]).exp()
    assert ratios.item() == pytest.approx(expected.mean().item())
    assert policy.item() == pytest.approx((expected * torch.tensor([1.0, 2.0])).mean().item())
    assert loss.item() == pytest.approx(-policy.item())


def test_chunked_loss_equals_the_simple_one_with_the_same_gradient() -> None:
    logits, targets = torch.randn(3, 10, 7), torch.randint(0, 7, (3, 10))
    ref, advantages = -torch.rand(3, 10) * 3, torch.randn(3)
    mask = torch.arange(10) < torch.tensor([[10], [4], [7]])
    whole, pieces = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    logprobs = torch.log_softmax(whole, -1).gather(-1, targets[..., None])[..., 0]
    simple = GRPOSimpleLoss(kl_coeff=0.2)(logprobs, logprobs, ref, advantages, mask)
    chunked = GRPOWithChunkedOutputLoss(4, kl_coeff=0.2)(pieces, targets, ref, advantages, mask)
    for ours, expected in zip(chunked, simple, strict=False):
        assert torch.allclose(ours, expected, atol=1e-5)
    simple[0].backward()
    chunked[0].backward()
    assert torch.allclose(whole.grad, pieces.grad, atol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(chunked[5], logprobs.detach(), atol=1e-5)
    in_list = GRPOWithChunkedOutputLoss(2, kl_coeff=0.2)(list(logits.chunk(2, 1)), targets, ref, advantages, mask)
    assert torch.allclose(in_list[0], simple[0], atol=1e-5)


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("so</think> <answer>4</answer>", (100.0, 1.0)),
        ("so</think> <answer>3</answer> <answer>4</answer>", (100.0, 1.0)),
        ("so</think> <answer>$4</answer>", (20.0, 0.0)),
        ("so</think> <answer>4</answer> <answer>5</answer>", (35.0, 0.0)),
        ("so</think> <answer>7</answer>", (10.0, 0.0)),
        ("so</think>", (5.0, 0.0)),
        ("4", (0.0, 0.0)),
    ],
)
def test_shaped_reward(completion: str, reward: tuple[float, float]) -> None:
    assert rewards.shaped_correctness_reward("4", completion) == reward


def test_batched_reward_has_a_value_for_each_answer_of_each_group() -> None:
    texts = {1: "a</think><answer>4</answer>", 2: "nothing"}
    tokenizer: Any = SimpleNamespace(decode=lambda ids: texts[ids[0]])
    got, successes = rewards.batch_shaped_correctness_reward(tokenizer, torch.tensor([[[1], [2]]]), ["4"])
    assert got.tolist() == [[100.0, 0.0]]
    assert successes.tolist() == [[1.0, 0.0]]


def test_math_reward_compares_numbers_and_format_reward_the_form() -> None:
    def episode(text: str) -> SimpleNamespace:
        return SimpleNamespace(text=text, row={"answer": "1,200"})

    right = rewards.FormattedMathCorrectnessReward("answer", 10.0)
    assert right(episode("x</think><answer>$1200.0</answer>")) == 10.0
    assert right(episode("x</think><answer>twelve</answer>")) == 0.0
    form = rewards.ThinkingAnswerFormattingReward("think", "answer", 1.0, -1.0)
    assert form(episode("<think>x</think> <answer>y</answer>")) == 1.0
    assert form(episode("x</think><answer>y</answer>")) == 1.0
    assert form(episode("x</think><answer>y</answer> and more")) == -1.0
    assert form(episode("x</think><answer></answer>")) == -1.0


class Letters:
    """A tokenizer of characters."""

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        return [1] * add_bos + [ord(c) for c in text] + [2] * add_eos

    def __call__(self, sample: dict[str, Any], inference: bool = False) -> dict[str, Any]:
        messages = sample.pop("messages")
        tokens = [self.encode(m.text_content, False, False) for m in messages]
        masks = [[m.masked] * len(ids) for m, ids in zip(messages, tokens, strict=True)]
        return {**sample, "tokens": sum(tokens, []), "mask": sum(masks, [])}


@pytest.fixture
def gsm8k(tmp_path: Path) -> dict[str, Any]:
    rows = [{"question": f"q{i}", "answer": f"thinking {i}\n#### {i}"} for i in range(25)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": "json", "data_files": str(path), "name": "default"}


def test_partition_chooses_rows_by_index(gsm8k: dict[str, Any]) -> None:
    tokenizer: Any = Letters()
    part = gsm8k_dataset(tokenizer, partition="1-9/10", **gsm8k)
    assert [part[i]["answer"] for i in range(len(part))] == [str(i) for i in range(25) if i % 10]
    assert part[0]["tokens"] == tokenizer.encode(BASE_PROMPT % "q1", add_eos=False)
    with pytest.raises(ValueError, match="FIRST-LAST/TOTAL"):
        gsm8k_dataset(tokenizer, partition="1-9", **gsm8k)


def test_supervised_rows_train_what_follows_the_preamble(gsm8k: dict[str, Any]) -> None:
    sample = gsm8k_sft(Letters(), partition="0-0/10", **gsm8k)[1]  # type: ignore[arg-type]
    trained = "".join(chr(label) for label in sample["labels"] if label != -100)
    assert trained == "<think>thinking 10\n</think> <answer>10</answer>"


def test_prompts_are_padded_at_the_left() -> None:
    batch = padded_collate_rl([{"tokens": [1, 2], "answer": "a"}, {"tokens": [3], "answer": "b"}], padding_idx=9)
    assert batch["tokens"].tolist() == [[1, 2], [9, 3]]  # type: ignore[union-attr]
    assert batch["answers"] == ["a", "b"]


def test_generate_passes_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("torchtune.generation.generate", lambda model, prompt, **kwargs: seen.update(kwargs))
    step = object()
    generation.generate(None, None, max_generated_tokens=3, custom_generate_next_token=step, top_k=4)  # type: ignore[arg-type]
    assert seen["compiled_generate_next_token"] is step
    assert seen["max_generated_tokens"] == 3 and seen["top_k"] == 4 and seen["temperature"] == 1.0
