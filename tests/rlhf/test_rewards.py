"""Rewards, advantages and log-probabilities; what torchtune got wrong is right here."""

from __future__ import annotations

import importlib

import pytest
import torch

from torchtune import rlhf


def test_every_module_of_losses_imports() -> None:
    for name in ("torchtune.rlhf.loss", "torchtune.rlhf.loss.dpo", "torchtune.rlhf.loss.ppo", "torchtune.rlhf.utils"):
        importlib.import_module(name)


def test_one_sequence_without_a_batch_is_cut_at_its_stop_token() -> None:
    mask, cut = rlhf.truncate_sequence_at_first_stop_token(torch.tensor([5, 2, 7, 2]), torch.tensor([2]), -1)
    assert cut.tolist() == [5, 2, -1, -1]
    assert mask.tolist() == [False, False, True, True]


def test_cutting_leaves_the_input_as_it_was() -> None:
    sequences = torch.tensor([[5, 2, 7], [1, 1, 1]])
    before = sequences.clone()
    rlhf.truncate_sequence_at_first_stop_token(sequences, torch.tensor([2]))
    assert torch.equal(sequences, before)


def test_advantages_are_discounted_sums_when_lambda_is_one() -> None:
    values, rewards = torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 2.0, 3.0]])
    _, returns = rlhf.estimate_advantages(values, rewards, gamma=0.5, lmbda=1.0)
    assert returns.tolist() == [[1 + 2 / 4 + 3 / 8, 2 / 2 + 3 / 4, 2 + 3 / 2, 3.0]]


def test_positions_outside_the_response_get_no_advantage() -> None:
    mask = torch.tensor([[True, True, False]])
    advantages, _ = rlhf.estimate_advantages(torch.randn(1, 3), torch.randn(1, 3), 1.0, 0.95, masks=mask)
    assert advantages[0, 2] == 0


def test_whitening_keeps_or_removes_the_mean() -> None:
    x, mask = torch.tensor([1.0, 2.0, 6.0, 99.0]), torch.tensor([True, True, True, False])
    kept, removed = rlhf.whiten(x, mask), rlhf.whiten(x, mask, shift_mean=False)
    assert rlhf.masked_mean(kept, mask).item() == pytest.approx(3.0, abs=1e-4)
    assert rlhf.masked_mean(removed, mask).item() == pytest.approx(0.0, abs=1e-5)
    assert removed[mask].var().item() == pytest.approx(1.0, abs=1e-5)


def test_masked_values_that_are_not_finite_do_not_spread() -> None:
    x, mask = torch.tensor([1.0, float("inf"), float("nan")]), torch.tensor([True, False, False])
    assert rlhf.masked_mean(x, mask).item() == pytest.approx(1.0)


def test_chunks_of_rows_give_the_same_log_probabilities() -> None:
    logits, ids = torch.randn(5, 3, 7), torch.randint(0, 7, (5, 3))
    whole = torch.log_softmax(logits / 0.7, -1).gather(-1, ids[..., None])[..., 0]
    assert torch.allclose(rlhf.logits_to_logprobs(logits, ids, 0.7), whole, atol=1e-6)
    assert torch.allclose(rlhf.batched_logits_to_logprobs(logits, ids, 0.7, chunk_size=2), whole, atol=1e-6)
    assert rlhf.batched_logits_to_logprobs(logits[:0], ids[:0]).shape == (0, 3)


def test_response_logits_are_those_before_each_token() -> None:
    logits = torch.arange(6.0).view(1, 6, 1)
    assert rlhf.truncate_sequence_for_logprobs(logits, 4).flatten().tolist() == [3.0, 4.0]


def test_mean_log_probability_of_a_row_without_labels_is_zero() -> None:
    labels = torch.full((1, 3), -100)
    assert rlhf.get_batch_log_probs(torch.randn(1, 3, 4), labels, return_average_logprobs=True).tolist() == [0.0]  # type: ignore[arg-type]


def test_score_is_added_where_the_response_ends() -> None:
    scores, logprobs = torch.tensor([2.0, 3.0]), torch.zeros(2, 3)
    rewards, _, _ = rlhf.get_rewards_ppo(scores, logprobs, logprobs, 0.1, torch.tensor([1, 2]))
    assert rewards.tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]
