"""Cross entropy and distillation losses against plain formulas; gradients, scaling, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _tiny_layers import DIM, VOCAB, decoder
from torch import Tensor, nn

from torchtune.modules import TiedLinear
from torchtune.modules.loss import (
    CEWithChunkedOutputLoss,
    ForwardKLLoss,
    ForwardKLWithChunkedOutputLoss,
    LinearCrossEntropyLoss,
    ReverseKLLoss,
    ReverseKLWithChunkedOutputLoss,
    RLLoss,
    SFTLoss,
    SymmetricKLLoss,
    SymmetricKLWithChunkedOutputLoss,
)

LABELS = torch.tensor([[6, -100, 7, 4, 5, 3, 1], [4, -100, -100, 8, 9, 4, 0]])


class Head(nn.Module):
    """As much of a model as a loss needs."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output
        self.skip_output_layer = False


def linear_loss(output: Any, **options: Any) -> LinearCrossEntropyLoss:
    loss = LinearCrossEntropyLoss(**options)
    head = Head(output)
    loss.set_model_output(head)
    assert head.skip_output_layer
    return loss


def expected(hidden: Tensor, weight: Tensor, labels: Tensor, factor: float = 1.0) -> list[Tensor]:
    hidden, weight = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    loss = F.cross_entropy((hidden @ weight.t()).flatten(0, 1), labels.flatten())
    return [loss.detach(), *torch.autograd.grad(loss * factor, (hidden, weight))]


@pytest.mark.parametrize("chunks", [1, 3, 8, 100])
@pytest.mark.parametrize("mask_ignored", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_linear_cross_entropy_and_gradients_equal_plain_ones(chunks: int, mask_ignored: bool, tied: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 7, DIM, requires_grad=True)
    module: nn.Module = nn.Embedding(VOCAB, DIM) if tied else nn.Linear(DIM, VOCAB, bias=False)
    output = TiedLinear(module) if tied else module
    loss = linear_loss(output, num_output_chunks=chunks, mask_ignored_tokens=mask_ignored)(hidden, LABELS)
    (loss * 3.5).backward()
    value, grad_hidden, grad_weight = expected(hidden, module.weight, LABELS, 3.5)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach().double(), value, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(hidden.grad.double(), grad_hidden, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(module.weight.grad.double(), grad_weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("output", ["bias", "hook", "wrapped"])
def test_projections_that_are_more_than_a_product_take_the_general_path(output: str) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 7, DIM, requires_grad=True)
    linear = nn.Linear(DIM, VOCAB, bias=output == "bias")
    called = []
    if output == "hook":
        linear.register_forward_pre_hook(lambda *_: called.append(1))
    projection = linear if output != "wrapped" else (lambda h: torch.tanh(linear(h)))
    loss = linear_loss(projection, num_output_chunks=3)(hidden, LABELS)
    loss.backward()
    logits = projection(hidden)
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), LABELS.flatten()))
    assert linear.weight.grad is not None and (output != "hook" or len(called) == 4)


def test_bf16_gradients_are_as_good_as_autograd_s() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 7, DIM).bfloat16().requires_grad_()
    linear = nn.Linear(DIM, VOCAB, bias=False).bfloat16()
    linear_loss(linear, num_output_chunks=2)(hidden, LABELS).backward()
    _, grad_hidden, grad_weight = expected(hidden, linear.weight, LABELS)
    torch.testing.assert_close(hidden.grad.double(), grad_hidden, atol=2e-3, rtol=2e-2)
    torch.testing.assert_close(linear.weight.grad.double(), grad_weight, atol=4e-3, rtol=2e-2)


def test_frozen_projection_gets_no_gradient_and_evaluation_computes_none() -> None:
    linear = nn.Linear(DIM, VOCAB, bias=False).requires_grad_(False)
    hidden = torch.randn(2, 7, DIM, requires_grad=True)
    linear_loss(linear)(hidden, LABELS).backward()
    assert linear.weight.grad is None and hidden.grad is not None
    with torch.no_grad():
        assert not linear_loss(linear)(hidden, LABELS).requires_grad


def test_logits_of_all_tokens_never_exist() -> None:
    tokens, vocab, chunks = 64, 1024, 8
    linear, hidden = nn.Linear(8, vocab, bias=False), torch.randn(1, tokens, 8, requires_grad=True)
    loss = linear_loss(linear, num_output_chunks=chunks)
    labels = torch.randint(0, vocab, (1, tokens))
    kept: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            kept.extend(t.numel() for t in (out if isinstance(out, tuple) else [out]) if isinstance(t, Tensor))
            return out

    with Sizes():
        loss(hidden, labels).backward()
    assert max(kept) <= max(tokens // chunks * vocab, linear.weight.numel())


def test_accumulated_gradients_add_up() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(DIM, VOCAB, bias=False)
    loss, hidden = linear_loss(linear), torch.randn(2, 7, DIM)
    for _ in range(2):
        (loss(hidden, LABELS) / 2).backward()
    torch.testing.assert_close(
        linear.weight.grad.double(), expected(hidden, linear.weight, LABELS)[2], atol=1e-6, rtol=1e-5
    )


def test_second_backward_is_refused_not_wrong() -> None:
    loss = linear_loss(nn.Linear(DIM, VOCAB, bias=False))(torch.randn(2, 7, DIM, requires_grad=True), LABELS)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        loss.backward()


@pytest.mark.parametrize("mask_ignored", [True, False])
def test_linear_cross_entropy_is_zero_and_differentiable_when_all_labels_are_ignored(mask_ignored: bool) -> None:
    hidden = torch.randn(2, 7, DIM, requires_grad=True)
    loss = linear_loss(nn.Linear(DIM, VOCAB, bias=False), mask_ignored_tokens=mask_ignored)
    value = loss(hidden, torch.full((2, 7), -100))
    value.backward()
    assert value.item() == 0.0 and not hidden.grad.any()


def test_loss_without_a_model_says_what_to_call() -> None:
    with pytest.raises(AttributeError, match=r"set_model_output\(model\)"):
        LinearCrossEntropyLoss()(torch.randn(1, 7, DIM), LABELS[:1])


@pytest.mark.parametrize("bias", [True, False])
def test_compiled_linear_cross_entropy_equals_the_eager_one(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(DIM, VOCAB, bias=bias)
    hidden = torch.randn(2, 7, DIM, requires_grad=True)
    want = linear_loss(linear)(hidden, LABELS)
    (want_grad,) = torch.autograd.grad(want, hidden)
    loss = linear_loss(linear)
    assert loss.apply_compile_strategy(backend="aot_eager") is loss
    got = loss(hidden, LABELS)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, hidden)[0], want_grad)


def test_linear_cross_entropy_of_a_model_equals_cross_entropy_of_its_logits() -> None:
    model = decoder()
    tokens = torch.randint(0, VOCAB, (2, 7))
    want = F.cross_entropy(model(tokens).flatten(0, 1), LABELS.flatten())
    want_grads = torch.autograd.grad(want, list(model.parameters()))
    loss = LinearCrossEntropyLoss()
    loss.set_model_output(model)
    got = loss(model(tokens), LABELS)
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got, list(model.parameters())), want_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert not list(loss.parameters()), "the projection stays the model's"


def test_tensor_parallel_plan_needs_an_output_and_is_not_changed_in_place() -> None:
    plan: dict[str, Any] = {"output": "before"}
    loss = LinearCrossEntropyLoss()
    assert loss.tp_requires_loss_parallel_ctx_manager
    patched = loss.patch_tp_plan(plan)
    assert plan["output"] == "before" and type(patched["output"]).__name__ == "ColwiseParallel"
    with pytest.raises(KeyError, match="`output`"):
        LinearCrossEntropyLoss().patch_tp_plan({"layers": None})


def test_chunked_cross_entropy_equals_the_plain_one_for_uneven_chunks() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 7, VOCAB)
    loss = CEWithChunkedOutputLoss(num_output_chunks=3)
    want = F.cross_entropy(logits.flatten(0, 1), LABELS.flatten())
    torch.testing.assert_close(loss(list(logits.tensor_split(3, dim=1)), LABELS), want)
    torch.testing.assert_close(loss.compute_cross_entropy(logits.flatten(0, 1), LABELS.flatten()), want)
    model = decoder()
    loss.set_model_output(model)
    assert model.num_output_chunks == 3
    assert isinstance(loss, SFTLoss) and loss.patch_tp_plan({"a": 1}) == {"a": 1}
    with pytest.raises(ValueError, match="logits have 7 positions.*labels 6"):
        loss([logits], LABELS[:, :6])


def token_divergence(student: Tensor, teacher: Tensor, kind: str, ratio: float = 0.5) -> Tensor:
    p, q = teacher.softmax(-1), student.softmax(-1)
    forward = -(p * student.log_softmax(-1)).sum(-1)
    reverse = F.kl_div(teacher.log_softmax(-1), q, reduction="none").sum(-1)
    return {"forward": forward, "reverse": reverse, "symmetric": ratio * forward + (1 - ratio) * reverse}[kind]


DISTILLATION = {
    "forward": (ForwardKLLoss, ForwardKLWithChunkedOutputLoss),
    "reverse": (ReverseKLLoss, ReverseKLWithChunkedOutputLoss),
    "symmetric": (SymmetricKLLoss, SymmetricKLWithChunkedOutputLoss),
}


@pytest.mark.parametrize("kind", list(DISTILLATION))
def test_distillation_losses_equal_their_divergences_whole_and_in_uneven_chunks(kind: str) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, VOCAB), torch.randn(2, 7, VOCAB)
    counts = LABELS != -100
    per_token = token_divergence(student, teacher, kind)[counts]
    whole, chunked = DISTILLATION[kind]
    torch.testing.assert_close(whole()(student, teacher, LABELS), per_token.mean())
    torch.testing.assert_close(whole()(student, teacher, LABELS, normalize=False), per_token.sum())
    pieces = [list(x.tensor_split(3, dim=1)) for x in (student, teacher)]
    torch.testing.assert_close(chunked(num_output_chunks=3)(*pieces, LABELS), per_token.mean())
    compiled = chunked(num_output_chunks=3).apply_compile_strategy(backend="aot_eager")
    torch.testing.assert_close(compiled(*pieces, LABELS), per_token.mean())


@pytest.mark.parametrize("kind", [*DISTILLATION, "cross entropy"])
def test_losses_are_zero_not_nan_when_every_label_is_ignored(kind: str) -> None:
    logits = [torch.randn(2, 4, VOCAB, requires_grad=True), torch.randn(2, 3, VOCAB)]
    ignored = torch.full((2, 7), -100)
    if kind == "cross entropy":
        loss = CEWithChunkedOutputLoss()(logits, ignored)
    else:
        whole, chunked = DISTILLATION[kind]
        assert whole()(torch.cat(logits, 1), torch.cat(logits, 1), ignored).item() == 0.0
        loss = chunked()(logits, logits, ignored)
    loss.backward()
    assert loss.item() == 0.0 and not logits[0].grad.any()


@pytest.mark.parametrize("kind", list(DISTILLATION))
def test_tokens_of_the_vocabulary_with_infinite_logits_are_left_out(kind: str) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 2, 5), torch.randn(1, 2, 5)
    student[..., 3] = -torch.inf
    loss = DISTILLATION[kind][0]()(student, teacher, torch.tensor([[1, 2]]))
    assert torch.isfinite(loss)


def test_symmetric_ratio_must_be_a_fraction() -> None:
    with pytest.raises(ValueError, match="between 0.0 and 1.0, not 1.2"):
        SymmetricKLLoss(1.2)


def test_losses_of_one_s_own_need_only_forward() -> None:
    class Mine(SFTLoss, nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.sum() * 0 + targets.sum()

    loss = Mine()
    loss.set_model_output(nn.Identity())
    assert loss.apply_compile_strategy(backend="eager") is loss
    assert loss(torch.zeros(2), torch.tensor([1, 2])) == 3
    assert not loss.tp_requires_loss_parallel_ctx_manager
    with pytest.raises(TypeError, match="abstract"):
        RLLoss()  # type: ignore[abstract]
