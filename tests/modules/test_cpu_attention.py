"""Attention for training on the CPU against torch's own in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torchtune.modules._cpu_attention import cpu_attention, is_single_query, serves, single_query_attention
from torchtune.modules.attention_utils import _attention


def _inputs(length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, length, heads, 16).mul(2).to(dtype).transpose(1, 2).requires_grad_() for heads in (4, 2, 2)]


def _packed(length: int) -> torch.Tensor:
    """Two packs, in the second of which one token sees nothing."""
    ids = torch.arange(length) // 70
    mask = ((ids[:, None] == ids[None]) & torch.ones(length, length, dtype=torch.bool).tril()).expand(2, 1, -1, -1)
    mask = mask.clone()
    mask[1, 0, 5] = False
    return mask


@pytest.mark.parametrize("kind", ["causal", "packed", "all"])
@pytest.mark.parametrize(("dtype", "length"), [(torch.float32, 300), (torch.bfloat16, 100), (torch.bfloat16, 300)])
def test_output_and_gradients_are_those_of_exact_attention(kind: str, dtype: torch.dtype, length: int):
    inputs = _inputs(length, dtype)
    mask, causal = _packed(length) if kind == "packed" else None, kind == "causal"
    assert serves(*inputs, mask, 0.0) or dtype == torch.bfloat16  # which old processors have no instructions for
    grad = torch.randn(2, 4, length, 16).to(dtype)
    out = cpu_attention(*inputs, mask, causal, 0.3)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = F.scaled_dot_product_attention(*exact, attn_mask=mask, is_causal=causal, scale=0.3, enable_gqa=True)
    pairs = zip(
        (out, *torch.autograd.grad(out, inputs, grad)),
        (expected, *torch.autograd.grad(expected, exact, grad.double())),
        strict=True,
    )
    limit = 2e-6 if dtype == torch.float32 else 1.2e-2  # the flash kernel's own error in bf16 is 3e-3 to 7e-3
    assert all((a.double() - b).norm() < limit * b.norm() for a, b in pairs)


def test_gradients_stay_finite_where_scores_are_large():
    q, k, v = _inputs(128, torch.bfloat16)
    out = cpu_attention(q * 40, k * 40, v, None, True, 1.0)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.parametrize("packed", [False, True])
def test_a_compiled_graph_calls_it_and_gives_the_same(packed: bool):
    inputs = _inputs(300, torch.float32)
    mask = _packed(300) if packed else None
    op, cheap = torch.ops.torchtune.cpu_attention.default, ("test_schema", "test_faketensor")
    torch.library.opcheck(op, (*inputs, mask, not packed, 0.3), test_utils=cheap)
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph.print_readable(print_output=False))
        return graph

    compiled = torch.compile(_attention, backend=backend, fullgraph=True)
    results = []
    for attention in (_attention, compiled):
        out = attention(*inputs, mask, is_causal=not packed)
        results.append((out, *torch.autograd.grad(out.sum(), inputs)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert "torchtune.cpu_attention" in graphs[0]


def test_what_it_does_not_compute_is_left_to_torch():
    q, k, v = _inputs(300, torch.float32)
    assert not serves(q, k, v, None, 0.1)
    assert not serves(q, k, v, torch.zeros(2, 1, 300, 300), 0.0)
    assert not serves(q.detach(), k, v, None, 0.0)
    assert not serves(q[..., :8], k[..., :8], v, None, 0.0)
    with torch.no_grad():
        assert not serves(q, k, v, None, 0.0)


@pytest.mark.parametrize("masked", [False, True])
def test_a_single_query_gives_what_exact_attention_gives(masked: bool):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, tokens, 16).bfloat16() for heads, tokens in ((4, 1), (2, 30), (2, 30)))
    mask = torch.rand(2, 1, 1, 30) > 0.3 if masked else None
    if mask is not None:
        mask[1] = False  # sees nothing
    with torch.no_grad():
        assert is_single_query(q, k, v, mask, 0.0)
        out = single_query_attention(q, k, v, mask, 0.3)
    expected = F.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=mask, scale=0.3, enable_gqa=True
    )
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, rtol=8e-3, atol=1e-3)
    assert not is_single_query(q, k, v, mask, 0.0)  # with gradients
