"""Layer dropout and early exit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _tiny_layers import VOCAB, decoder
from torch import Tensor, nn

from torchtune.modules import LayerDropout, early_exit_loss, prepare_layer_dropout
from torchtune.modules.early_exit_loss import (
    EarlyExitCurriculum,
    GradualEarlyExitCurriculum,
    RotationalEarlyExitCurriculum,
)
from torchtune.modules.layer_dropout import ModuleLayerDropoutWrapper, ScaleType, get_scale
from torchtune.modules.loss import CEWithChunkedOutputLoss, LinearCrossEntropyLoss

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [1, 2, 3, 4, 5]])


def test_skipped_samples_pass_unchanged_and_arguments_are_cut_alike() -> None:
    dropout, x, shift = LayerDropout(0.5, seed=1), torch.randn(40, 3), torch.randn(40, 1)
    seen: list[int] = []

    def function(x: Tensor, shift: Tensor, scale: float, *, extra: Tensor) -> Tensor:
        seen.append(len(x))
        return x * scale + shift + extra

    out = dropout(function, x, shift, 3.0, extra=shift)
    kept = (out != x).any(1)
    assert 0 < int(kept.sum()) == seen[0] < 40 and dropout.inferred == pytest.approx(seen[0] / 40)
    torch.testing.assert_close(out[kept], (x * 3 + 2 * shift)[kept])
    torch.testing.assert_close(out[~kept], x[~kept])


@pytest.mark.parametrize(("prob", "calls"), [(0.0, 1), (1.0, 0)])
def test_certain_probabilities_apply_all_or_nothing(prob: float, calls: int) -> None:
    x, called = torch.randn(3, 2), []

    def function(x: Tensor) -> Tensor:
        called.append(1)
        return x + 1

    assert torch.equal(LayerDropout(prob)(function, x), x + calls) and len(called) == calls


def test_evaluation_skips_nothing_unless_asked_to() -> None:
    x = torch.zeros(20, 1)
    assert (LayerDropout(1.0).eval()(lambda x: x + 1, x) == 1).all()
    assert (LayerDropout(1.0, disable_on_eval=False).eval()(lambda x: x + 1, x) == 0).all()
    with pytest.raises(ValueError, match="prob must be between"):
        LayerDropout(1.5)
    with pytest.raises(ValueError, match="dim must be 0"):
        LayerDropout(0.5, dim=1)


def test_model_with_layer_dropout_has_the_same_checkpoint_and_evaluation() -> None:
    model, plain = decoder(4), decoder(4, seed=1)
    want = plain(TOKENS)
    prepare_layer_dropout(model.layers, prob_max=0.6, prob_layer_scale=ScaleType.LINEAR, layers_str="1:")
    assert [layer.dropout.prob for layer in model.layers] == pytest.approx([0.0, 0.2, 0.4, 0.6])
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    model.layers[0].load_state_dict(plain.layers[0].state_dict())
    torch.testing.assert_close(model.eval()(TOKENS), want)
    positions = torch.arange(5).expand(3, 5)
    mask = torch.ones(5, 5, dtype=torch.bool).tril().expand(3, 5, 5)
    out = model.train()(TOKENS, mask=mask, input_pos=positions)
    out.sum().backward()
    assert not torch.allclose(out, want)
    assert model.layers[0].attn.num_heads == 4 and not model.caches_are_setup()


def test_wrapped_sequences_can_be_indexed() -> None:
    wrapped = ModuleLayerDropoutWrapper(nn.Sequential(nn.Linear(1, 2)), LayerDropout())
    assert wrapped[0].out_features == 2
    with pytest.raises(AttributeError):
        wrapped.nothing  # noqa: B018


@pytest.mark.parametrize("scale", list(ScaleType))
def test_scales_grow_from_zero_to_one(scale: ScaleType) -> None:
    values = [get_scale(scale, 8, i) for i in range(9)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1, abs=0.01)
    assert values[0] == (1 if scale == ScaleType.UNIFORM else pytest.approx(0, abs=0.01))
    assert get_scale(scale, 0, 0) == 1


SHARES = {
    "uniform_loss_scale": [1.0, 1, 1, 1],
    "linear_l_loss_scale": [1.0, 2, 3, 4],
    "sum_l_loss_scale": [1.0, 3, 6, 10],
    "sqrt_l_loss_scale": [1.0, 2**0.5, 3**0.5, 2],
    "inv_l_loss_scale": [1.0, 1 / 2, 1 / 3, 1 / 4],
    "inv_sqrt_l_loss_scale": [1.0, 2**-0.5, 3**-0.5, 1 / 2],
}


@pytest.mark.parametrize("name", list(SHARES))
def test_layers_share_the_loss_by_their_number(name: str) -> None:
    shares = torch.tensor(SHARES[name])
    scale = getattr(early_exit_loss, name)
    assert scale.__name__ == name
    torch.testing.assert_close(scale(torch.arange(4), 4), shares / shares.sum())
    shares[:3] *= 0.5
    torch.testing.assert_close(scale(torch.arange(4), 4, 0.5), shares / shares.sum())


@pytest.mark.parametrize("kind", ["plain", "chunked", "linear"])
def test_early_exit_loss_is_the_weighted_loss_of_each_layer(kind: str) -> None:
    model = decoder(3, output_hidden_states=[0, 2])
    labels = torch.tensor([[1, 2, -100, 4, 5]] * 3)
    losses: dict[str, Any] = {
        "plain": nn.CrossEntropyLoss(ignore_index=-100),
        "chunked": CEWithChunkedOutputLoss(2),
        "linear": LinearCrossEntropyLoss(),
    }
    loss = losses[kind]
    if kind != "plain":
        loss.set_model_output(model)
    *hidden, _ = model(TOKENS)
    got = early_exit_loss.early_exit_loss(model, dict(zip([0, 2], hidden[:2], strict=True)), labels, loss, e_scale=0.5)
    each = [F.cross_entropy(model.output(model.norm(h)).view(-1, VOCAB), labels.view(-1)) for h in hidden[:2]]
    torch.testing.assert_close(got, (0.5 * each[0] + each[1]) / 1.5)
    got.backward()


def steps(curriculum: EarlyExitCurriculum, count: int) -> list[list[int]]:
    out = []
    for _ in range(count):
        out.append(curriculum.get().nonzero()[0].tolist())
        curriculum.step()
    return out


def test_curricula_choose_layers_step_by_step() -> None:
    every_second = [True, False, True, False]
    assert steps(EarlyExitCurriculum(every_second, 4), 2) == [[0, 2, 3]] * 2
    assert steps(EarlyExitCurriculum(every_second, 4, train_last_layer=False), 1) == [[0, 2]]
    turning = RotationalEarlyExitCurriculum([True, False, False, False], 4, train_last_layer=False)
    assert steps(turning, 5) == [[0], [1], [2], [3], [0]]
    assert steps(RotationalEarlyExitCurriculum([True, False, False, False], 4, last_step=2), 2) == [[2, 3], [3]]
    growing = GradualEarlyExitCurriculum([True] * 4, 8, fraction_scale=0.5)
    assert steps(growing, 6) == [[3], [3], [2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
