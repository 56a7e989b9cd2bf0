"""Experts and router against a loop over tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules import FeedForward
from torchtune.modules.moe import GroupedExperts, LoRAGroupedExperts, MoE, TokenChoiceTopKRouter, utils
from torchtune.modules.moe.indices import generate_permute_indices

DIM, HIDDEN, EXPERTS = 8, 16, 4


def expert(experts: GroupedExperts | LoRAGroupedExperts, index: int, x: Tensor) -> Tensor:
    def project(x: Tensor, name: str) -> Tensor:
        weight = getattr(experts, f"{name}_proj")[index]
        if isinstance(experts, LoRAGroupedExperts):
            a, b = (getattr(experts, f"lora_{name}_{factor}")[index] for factor in "ab")
            weight = weight + experts.alpha / experts.rank * a @ b
        return x @ weight

    return project(experts.act_fn(project(x, "gate")) * project(x, "up"), "down")


def filled_lora(**options: float) -> LoRAGroupedExperts:
    experts = LoRAGroupedExperts(dim=DIM, hidden_dim=HIDDEN, num_experts=EXPERTS, rank=2, alpha=6.0, **options)  # type: ignore[arg-type]
    for name in experts.adapter_params():
        nn.init.normal_(getattr(experts, name), std=0.3)
    return experts


@pytest.mark.parametrize("activation", [F.silu, F.gelu])
@pytest.mark.parametrize("lora", [False, True])
def test_each_token_goes_through_its_expert(activation: Callable[[Tensor], Tensor], lora: bool) -> None:
    torch.manual_seed(0)
    experts = filled_lora() if lora else GroupedExperts(dim=DIM, hidden_dim=HIDDEN, num_experts=EXPERTS)
    experts.act_fn = activation
    counts = torch.tensor([2, 0, 3, 1])
    x = torch.randn(8, DIM)  # two rows more than the experts have tokens
    owners = torch.repeat_interleave(torch.arange(EXPERTS), counts)
    want = torch.stack([expert(experts, int(owner), row) for owner, row in zip(owners, x, strict=False)])
    got = experts(x, counts)
    torch.testing.assert_close(got[:6], want)
    assert not got[6:].any()


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_mixture_equals_a_loop_over_tokens(k: int, shared: bool) -> None:
    torch.manual_seed(0)
    experts = GroupedExperts(dim=DIM, hidden_dim=HIDDEN, num_experts=EXPERTS)
    gate = nn.Linear(DIM, EXPERTS, bias=False)
    router = TokenChoiceTopKRouter(gate=gate, dim=DIM, num_experts=EXPERTS, experts_per_token=k)
    common = FeedForward(gate_proj=nn.Linear(DIM, HIDDEN), down_proj=nn.Linear(HIDDEN, DIM)) if shared else None
    moe, x = MoE(experts=experts, router=router, shared_expert=common), torch.randn(2, 5, DIM)
    rows = []
    for row in x.reshape(-1, DIM):
        scores = gate(row)
        out = common(row) if common is not None else torch.zeros(DIM)
        for index in scores.topk(k).indices:
            out = out + expert(experts, int(index), row * scores[index].sigmoid())
        rows.append(out)
    got = moe(x)
    torch.testing.assert_close(got, torch.stack(rows).view_as(x), atol=1e-5, rtol=1e-5)
    got.sum().backward()
    assert gate.weight.grad.any() and experts.down_proj.grad.any()


def test_router_lists_choices_by_expert() -> None:
    router = TokenChoiceTopKRouter(gate=nn.Identity(), dim=3, num_experts=3, experts_per_token=1)
    weights, tokens, counts = router(torch.tensor([[0.0, 5.0, 1.0], [4.0, 0.0, 1.0], [0.0, 3.0, 2.0]]))
    assert tokens.tolist() == [1, 0, 2] and counts.tolist() == [1, 2, 0]
    torch.testing.assert_close(weights, torch.tensor([4.0, 5.0, 3.0]).sigmoid())


def test_fresh_adapter_changes_nothing_and_can_be_disabled() -> None:
    experts, x, counts = filled_lora(), torch.randn(4, DIM), torch.tensor([1, 1, 1, 1])
    plain = GroupedExperts(dim=DIM, hidden_dim=HIDDEN, num_experts=EXPERTS)
    plain.load_state_dict({k: v for k, v in experts.state_dict().items() if "lora" not in k})
    assert not torch.allclose(experts(x, counts), plain(x, counts))
    experts.disabled = True
    torch.testing.assert_close(experts(x, counts), plain(x, counts))
    experts.disabled = False
    experts.initialize_parameters()
    torch.testing.assert_close(experts(x, counts), plain(x, counts))


def test_grouped_products_need_a_recent_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert utils.should_use_grouped_mm() == (torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0))
    monkeypatch.setattr(utils, "use_grouped_mm", False)
    assert not utils.should_use_grouped_mm()


@pytest.mark.gpu
@pytest.mark.skipif(not utils.should_use_grouped_mm(), reason="needs compute capability 9.0")
def test_grouped_product_on_the_gpu_equals_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    experts = GroupedExperts(dim=64, hidden_dim=128, num_experts=EXPERTS).cuda().bfloat16()
    x, counts = torch.randn(200, 64, device="cuda").bfloat16(), torch.tensor([100, 0, 37, 50], device="cuda")
    results = []
    for use in (True, False):
        monkeypatch.setattr(utils, "use_grouped_mm", use)
        experts.zero_grad()
        out = experts(x, counts)
        out.float().square().mean().backward()
        results.append((out.detach(), experts.gate_proj.grad.clone()))
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=2e-2)


@pytest.mark.parametrize("use_cpu", [False, True])
def test_permutation_lists_tokens_by_expert_then_rank_with_fillers(use_cpu: bool) -> None:
    counts = torch.tensor([2, 1, 0, 3, 0, 2, 4, 1])  # 2 ranks, 4 experts each
    indexes, sizes = generate_permute_indices(counts, experts_per_rank=4, num_ranks=2, alignment=4, use_cpu=use_cpu)
    starts = counts.cumsum(0) - counts
    want = []
    for index in range(4):
        tokens = [int(starts[r * 4 + index]) + i for r in range(2) for i in range(int(counts[r * 4 + index]))]
        want += tokens + [-1] * (-len(tokens) % 4)
    assert indexes.tolist() == want
    assert sizes.tolist() == [4, 4, 4, 4] and sizes.dtype == indexes.dtype == torch.int32
