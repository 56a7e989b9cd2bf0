"""Products in fp32 by oneDNN against exact ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from torchtune.training import _cpu_products, fast_fp32_products

_CHECK = """
import torch
from torchtune.training import _cpu_products

def step():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(300, 700), torch.nn.Linear(700, 50, bias=False))
    model(torch.randn(2, 90, 300)).square().mean().backward()
    return [p.grad for p in model.parameters()]

before = step()
small = torch.mm(torch.eye(3), torch.arange(9.0).view(3, 3))
whole = torch.mm(torch.eye(3, dtype=torch.long), torch.arange(9).view(3, 3))
_cpu_products._replaced()
with torch.profiler.profile() as profile:
    after = step()
print(sum(e.count for e in profile.key_averages() if e.key == "mkldnn::_linear_pointwise"))
assert all((a - b).norm() < 1e-5 * b.norm() for a, b in zip(after, before))
assert torch.equal(torch.mm(torch.eye(3), torch.arange(9.0).view(3, 3)), small)
assert torch.equal(torch.mm(torch.eye(3, dtype=torch.long), torch.arange(9).view(3, 3)), whole)
"""

_needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="torch was built without oneDNN",
)


@_needs_onednn
@pytest.mark.parametrize("sizes", [(9, 5, 7), (40, 1200, 900), (7000, 60, 50), (50, 60, 7000)])
@pytest.mark.parametrize("transposed", [False, True])
def test_each_form_is_within_rounding_of_the_exact_product(sizes: tuple[int, int, int], transposed: bool):
    torch.manual_seed(0)
    rows, inner, columns = sizes
    a = torch.randn(inner, rows).t() if transposed else torch.randn(rows, inner)
    b = torch.randn(columns, inner).t() if transposed else torch.randn(inner, columns)
    c, bias = torch.randn(rows, columns), torch.randn(columns)
    exact = a.double() @ b.double()
    out = torch.empty_like(c)
    assert _cpu_products._mm_out(a, b, out=out) is out
    added = c.clone()
    assert _cpu_products._addmm_(added, a, b, alpha=0.5) is added
    pairs = [
        (_cpu_products._mm(a, b), exact),
        (out, exact),
        (added, c + 0.5 * exact),
        (_cpu_products._addmm(bias, a, b), bias + exact),
        (_cpu_products._addmm(c, a, b, beta=2, alpha=3), 2 * c + 3 * exact),
    ]
    assert all((found.double() - expected).norm() < 1e-6 * expected.norm() for found, expected in pairs)


@_needs_onednn
def test_linear_layers_and_their_gradients_go_through_it_and_small_products_stay():
    result = subprocess.run([sys.executable, "-W", "error", "-c", _CHECK], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == 5  # two forward, two of weights, one of inputs


def test_nothing_is_replaced_for_other_devices_and_dtypes():
    assert not fast_fp32_products("cuda", torch.float32)
    assert not fast_fp32_products("cpu", torch.bfloat16)
