"""Weights of tokens: in the losses, in the loss of a step, in batches and packs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.data import padded_collate_packed, padded_collate_sft
from torchtune.datasets import PackedDataset, PackedStream, SFTTransform, StreamingDataset
from torchtune.modules.loss import CEWithChunkedOutputLoss, LinearCrossEntropyLoss
from torchtune.training import LossAccumulator, count_loss_tokens

LABELS = torch.tensor([[6, -100, 7, 4, 5, 3, 1], [4, -100, -100, 8, 9, 4, 0]])
WEIGHTS = torch.tensor([[2.0, 5.0, 0.5, 0.0, 1.0, 1.0, 3.0], [1.0, 1.0, 9.0, 0.1, 1.0, 2.0, 1.0]])


def weighted_mean(logits: Tensor, labels: Tensor = LABELS, weights: Tensor = WEIGHTS) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    counted = (labels != -100).flatten() * weights.flatten()
    return (losses * counted).sum() / counted.sum()


class Model(nn.Module):
    """A projection, as the linear loss takes it over."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.output = nn.Linear(8, 11, bias=bias)
        self.skip_output_layer = False


@pytest.mark.parametrize("mask_ignored", [True, False])
@pytest.mark.parametrize("bias", [False, True], ids=["one product", "general"])
def test_linear_cross_entropy_is_the_weighted_mean(bias: bool, mask_ignored: bool) -> None:
    model = Model(bias)
    hidden = torch.randn(2, 7, 8, requires_grad=True)
    want = weighted_mean(model.output(hidden))
    want_grads = torch.autograd.grad(want, [hidden, *model.parameters()])
    loss = LinearCrossEntropyLoss(num_output_chunks=3, mask_ignored_tokens=mask_ignored)
    loss.set_model_output(model)
    got = loss(hidden, LABELS, weights=WEIGHTS)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, [hidden, *model.parameters()]), want_grads)
    torch.testing.assert_close(loss(hidden, LABELS, weights=torch.ones(2, 7)), loss(hidden, LABELS))


def test_chunked_cross_entropy_is_the_weighted_mean() -> None:
    logits = torch.randn(2, 7, 11)
    got = CEWithChunkedOutputLoss(num_output_chunks=3)(list(logits.tensor_split(3, dim=1)), LABELS, weights=WEIGHTS)
    torch.testing.assert_close(got, weighted_mean(logits))


def test_a_step_is_the_weighted_mean_over_its_micro_batches() -> None:
    logits = torch.randn(2, 7, 11)
    weights = WEIGHTS * 0.01  # less than 1 in all
    losses = LossAccumulator()
    for row in range(2):
        labels, own = LABELS[row : row + 1], weights[row : row + 1]
        loss = weighted_mean(logits[row : row + 1], labels, own)
        losses.add(loss, count_loss_tokens(labels, weights=own))
    step = losses.finish()
    torch.testing.assert_close(step.loss, weighted_mean(logits))
    torch.testing.assert_close(step.grad_scale, 1 / ((LABELS != -100) * weights).sum())


def sample(length: int, weights: list[float] | None = None) -> dict[str, Any]:
    tokens = list(range(1, length + 1))
    return {"tokens": tokens, "labels": tokens} | ({} if weights is None else {"loss_weights": weights})


def test_weights_are_those_of_the_labels() -> None:
    given = {"tokens": [1, 2, 3], "mask": [True, False, False], "loss_weights": [0.0, 2.0, 0.5]}
    made = SFTTransform(model_transform=lambda row: row)(given)
    assert made["labels"] == [2, 3, -100] and made["loss_weights"] == [2.0, 0.5, 0.0]


def test_samples_without_weights_weigh_1_beside_others() -> None:
    batch = padded_collate_sft([sample(2), sample(3, [0.5, 2.0, 1.0])])
    assert batch["loss_weights"].tolist() == [[1.0, 1.0, 0.0], [0.5, 2.0, 1.0]]
    assert "loss_weights" not in padded_collate_sft([sample(2), sample(3)])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("packing", ["in_order", "best_fit"])
def test_packs_keep_the_weights_of_their_samples(cached: bool, packing: Any, tmp_path: Path) -> None:
    rows: Any = [sample(2), sample(3, [0.5, 2.0, 1.0]), sample(1), sample(4, [0.25] * 4)]
    expected = [[1.0, 1.0, 0.5, 2.0, 1.0, 1.0], [0.25, 0.25, 0.25, 0.25, 0.0, 0.0]]
    if packing == "best_fit":
        expected = [[1.0, 1.0, 0.25, 0.25, 0.25, 0.25], [0.5, 2.0, 1.0, 1.0, 0.0, 0.0]]
    for _ in range(2):  # a second time from the cache
        packs = PackedDataset(rows, max_seq_len=6, packing=packing, cache_dir=tmp_path / "c" if cached else None)
        assert sorted(pack["loss_weights"].tolist() for pack in packs) == sorted(expected)  # type: ignore[attr-defined]
        for pack in packs:  # type: ignore[attr-defined]
            assert ((pack["loss_weights"] == 0) == (pack["labels"] == -100)).all()
    plain: Any = PackedDataset([sample(6)], max_seq_len=6)  # type: ignore[arg-type]
    batch = padded_collate_packed([packs[0], plain[0]])
    assert "loss_weights" not in plain[0] and batch["loss_weights"][1].tolist() == [1.0] * 6


def test_a_cache_is_written_anew_when_weights_change(tmp_path: Path) -> None:
    for weight in (0.5, 2.0):
        rows: Any = [sample(2), sample(2, [weight, 1.0])]
        packs = PackedDataset(rows, max_seq_len=4, cache_dir=tmp_path / "c")
        assert packs[0]["loss_weights"].tolist() == [1.0, 1.0, weight, 1.0]


def test_packed_streams_keep_weights(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 2}\n{"n": 3}\n')
    stream = StreamingDataset(str(path), lambda row: sample(row["n"], [2.0] * row["n"]), shuffle=False)
    pack = next(iter(PackedStream(stream, max_seq_len=6)))
    assert pack["loss_weights"].tolist() == [2.0] * 5 + [0.0]
