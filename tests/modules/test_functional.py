"""Norm, rotation and gated activation: values, gradients, and what they keep for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules import FeedForward, Fp32LayerNorm, RMSNorm, TanhGate, TiedLinear, rms_norm
from torchtune.modules._functional import rotate_halves, rotate_pairs, swiglu


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.double()
    return (wide * (wide.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight.double()).to(x.dtype)


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


def saved_bytes(function: Callable[[], object]) -> int:
    """Bytes of the distinct tensors that autograd keeps."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        function()
    return sum(kept.values())


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 4, 16)])
def test_rms_norm_and_its_gradients_equal_the_formula(shape: tuple[int, ...], eps: float) -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(shape), RMSNorm(shape[-1], eps)
    weight = torch.randn(shape[-1])

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"scale": weight}, x)

    want = gradients(lambda x, w: plain_rms_norm(x, w, eps), x, weight)
    for got, expected in zip(gradients(ours, x, weight), want, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_rms_norm_in_bf16_rounds_once() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(5, 64).bfloat16(), RMSNorm(64).bfloat16()
    torch.testing.assert_close(norm(x), plain_rms_norm(x, norm.scale, 1e-6), atol=0, rtol=8e-3)
    assert norm(x).dtype == torch.bfloat16


def test_rms_norm_without_weights_equals_the_formula() -> None:
    x = torch.randn(3, 6, requires_grad=True)
    got = gradients(lambda x: rms_norm(x), x)
    want = gradients(lambda x: plain_rms_norm(x, torch.ones(6), 1e-6), x)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_rms_norm_keeps_the_input_and_one_number_per_row() -> None:
    x, norm = torch.randn(32, 128).bfloat16().requires_grad_(), RMSNorm(128).bfloat16()
    assert saved_bytes(lambda: norm(x)) == x.numel() * 2 + 32 * 4 + 128 * 2


def test_swiglu_and_its_gradients_equal_the_formula() -> None:
    torch.manual_seed(0)
    gate, up = torch.randn(4, 6), torch.randn(4, 6)
    for got, want in zip(
        gradients(swiglu, gate, up), gradients(lambda g, u: g * torch.sigmoid(g) * u, gate, up), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_swiglu_does_not_keep_the_activated_gate() -> None:
    gate, up = torch.randn(8, 16, requires_grad=True), torch.randn(8, 16, requires_grad=True)
    assert saved_bytes(lambda: swiglu(gate, up)) == 2 * 8 * 16 * 4


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(approximate="tanh")])
def test_feed_forward_is_down_of_activated_gate_times_up(activation: nn.Module) -> None:
    gate, down, up = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 6)
    x = torch.randn(2, 3, 4)
    layer = FeedForward(gate_proj=gate, down_proj=down, up_proj=up, activation=activation)
    torch.testing.assert_close(layer(x), down(activation(gate(x)) * up(x)))
    ungated = FeedForward(gate_proj=gate, down_proj=down, activation=activation)
    torch.testing.assert_close(ungated(x), down(activation(gate(x))))


def test_rotations_equal_rotation_matrices_and_have_their_gradients() -> None:
    torch.manual_seed(0)
    x, angle = torch.randn(2, 5, 3, 8), torch.randn(1, 5, 1, 4)

    def by_matrix(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        out = torch.empty_like(x)
        cos, sin = angle.cos(), angle.sin()
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., first] * sin + x[..., second] * cos
        return out

    pairs = torch.stack([angle.cos(), angle.sin()], dim=-1)
    for rotate, first, second in (
        (lambda x: rotate_pairs(x, pairs), torch.arange(0, 8, 2), torch.arange(1, 8, 2)),
        (
            lambda x: rotate_halves(x, angle.cos().repeat(1, 1, 1, 2), angle.sin().repeat(1, 1, 1, 2)),
            torch.arange(4),
            torch.arange(4, 8),
        ),
    ):
        want = gradients(lambda x, a=first, b=second: by_matrix(x, a, b), x)
        for got, expected in zip(gradients(rotate, x), want, strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["rms", "swiglu", "pairs", "halves"])
def test_compiled_forms_equal_the_eager_ones(name: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 2, 8), torch.randn(2, 3, 2, 8)
    weight, angle = torch.randn(8), torch.randn(1, 3, 1, 4)
    cos, sin = angle.cos().repeat(1, 1, 1, 2), angle.sin().repeat(1, 1, 1, 2)
    norm = RMSNorm(8)
    with torch.no_grad():
        norm.scale.copy_(weight)
    function = {
        "rms": lambda x, y: norm(x) + y,
        "swiglu": swiglu,
        "pairs": lambda x, y: rotate_pairs(x, torch.stack([angle.cos(), angle.sin()], dim=-1)) + y,
        "halves": lambda x, y: rotate_halves(x, cos, sin) + y,
    }[name]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for got, want in zip(gradients(compiled, x, y), gradients(function, x, y), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_fp32_layer_norm_computes_in_fp32_and_returns_the_input_dtype() -> None:
    torch.manual_seed(0)
    norm, x = Fp32LayerNorm(16).bfloat16(), (torch.randn(4, 16) * 30 + 200).bfloat16()
    want = F.layer_norm(x.float(), (16,)).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x), want, atol=0, rtol=0)


def test_tanh_gate_starts_closed_and_learns() -> None:
    gate, x = TanhGate(), torch.randn(3, requires_grad=True)
    out = gate(x)
    out.sum().backward()
    assert not out.any()
    torch.testing.assert_close(gate.scale.grad, x.detach().sum().view(1))


def test_tied_linear_follows_its_module_and_adds_no_parameters() -> None:
    embedding = nn.Embedding(5, 3)
    model = nn.Module()
    model.embedding = embedding
    model.output = TiedLinear(embedding)  # type: ignore[assignment]
    embedding.weight = nn.Parameter(torch.randn(5, 3))
    x = torch.randn(2, 3)
    torch.testing.assert_close(model.output(x), x @ embedding.weight.t())
    assert [name for name, _ in model.named_parameters()] == ["embedding.weight"]
    with pytest.raises(AttributeError, match="no `weight`"):
        TiedLinear(nn.Identity())
