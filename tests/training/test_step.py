"""Losses weigh every token the same; gradients are scaled and clipped; checkpoints come when they are due."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchtune.training import (
    CheckpointSchedule,
    LossAccumulator,
    clip_grad_norm,
    count_loss_tokens,
    scale_grads,
    scale_grads_,
)


def micro_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    rows = [(torch.randn(2, 6, 4), torch.randint(0, 5, (2, 6))) for _ in range(3)]
    rows[0][1][:, 1:] = -100
    rows[1][1][0] = -100
    return rows


def mean_loss(head: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(head(x).flatten(0, 1), labels.flatten(), ignore_index=-100)


def test_accumulated_gradients_are_those_of_one_large_batch():
    head = nn.Linear(4, 5)
    batches = micro_batches()
    x, labels = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    whole = mean_loss(head, x, labels)
    whole.backward()
    expected = head.weight.grad.clone()
    head.zero_grad()
    losses = LossAccumulator()
    for x, labels in batches:
        losses.add(mean_loss(head, x, labels), count_loss_tokens(labels)).backward()
    step = losses.finish()
    scale_grads(head, step.grad_scale)
    torch.testing.assert_close(head.weight.grad, expected)
    torch.testing.assert_close(step.loss, whole.detach())
    assert step.num_tokens == (labels != -100).sum() + 2 + 6


def test_micro_batch_without_labels_changes_nothing_even_if_its_loss_is_nan():
    head = nn.Linear(4, 5)
    x, labels = micro_batches()[2]
    losses = LossAccumulator()
    losses.add(mean_loss(head, x, labels), count_loss_tokens(labels)).backward()
    expected = head.weight.grad.clone()
    nothing = torch.full_like(labels, -100)
    losses.add(mean_loss(head, x, nothing), count_loss_tokens(nothing)).backward()
    assert torch.equal(head.weight.grad, expected)
    assert losses.finish().loss.isfinite()
    assert losses.finish().loss == 0


def test_normalized_losses_need_no_scale():
    head = nn.Linear(4, 5)
    x, labels = micro_batches()[1]
    plain = mean_loss(head, x, labels)
    losses = LossAccumulator()
    torch.testing.assert_close(losses.add_normalized(plain, count_loss_tokens(labels)), plain)
    torch.testing.assert_close(losses.finish().loss, plain.detach())


@pytest.mark.parametrize("foreach", [None, False])
def test_scaling_passes_over_parameters_without_gradients(foreach):
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    a.grad = torch.tensor([2.0, 4.0])
    scale_grads_([a, b], torch.tensor(0.5), foreach=foreach)
    assert a.grad.tolist() == [1.0, 2.0]
    assert b.grad is None


@pytest.mark.parametrize(("max_norm", "factor"), [(None, 1.0), (float("inf"), 1.0), (10.0, 1.0), (2.5, 0.5)])
def test_clipping_measures_all_and_scales_only_above_the_limit(max_norm, factor):
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_grad_norm([a, b], max_norm) == 5
    assert a.grad.item() == pytest.approx(3 * factor, rel=1e-5)


def test_saves_are_due_every_so_many_steps_and_epochs_and_at_the_end():
    schedule = CheckpointSchedule(every_n_steps=3, every_n_epochs=2, total_epochs=5)
    assert [step for step in range(1, 10) if schedule.after_step(step)] == [3, 6, 9]
    assert [epoch for epoch in range(5) if schedule.after_epoch(epoch)] == [1, 3, 4]
    only_last = CheckpointSchedule(every_n_epochs=None, total_epochs=3)
    assert [epoch for epoch in range(3) if only_last.after_epoch(epoch)] == [2]
    assert not only_last.after_step(1)
    with pytest.raises(ValueError, match="save_every_n_steps is 0"):
        CheckpointSchedule(every_n_steps=0)
