"""Losses against TRL's numbers, and against their formulas written out one answer at a time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from torchtune.dev.grpo.loss import GRPOLoss
from torchtune.rlhf import ChosenRejectedOutputs, get_batch_log_probs
from torchtune.rlhf.loss import (
    DPOLoss,
    GroupPolicyLoss,
    IPOLoss,
    KTOLoss,
    ORPOLoss,
    PPOLoss,
    PreferenceLoss,
    RSOLoss,
    SimPOLoss,
)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """Numbers that TRL 1.16.0's own loss code gave."""
    return json.loads((Path(__file__).parents[1] / "assets" / "rlhf" / "trl_losses.json").read_text())


def outputs(golden: dict[str, Any], model: str, average: bool) -> ChosenRejectedOutputs:
    rows = golden["preferences"]
    logits, ids, mask = (torch.tensor(rows[key]) for key in (f"{model}_logits", "ids", "mask"))
    logps = get_batch_log_probs(logits, ids.masked_fill(mask == 0, -100), return_average_logprobs=average)
    chosen, rejected = logps.chunk(2)
    return ChosenRejectedOutputs(chosen, rejected, logits, logits)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("dpo", DPOLoss(beta=0.3)),
        ("rso", RSOLoss(gamma=0.3)),
        ("ipo", IPOLoss(beta=0.3)),
        ("kto", KTOLoss(beta=0.3, desirable_weight=1.2, undesirable_weight=0.8)),
        ("orpo", ORPOLoss(beta=0.3)),
        ("simpo", SimPOLoss(beta=2.0, gamma=0.5, label_smoothing=0.1)),
    ],
)
def test_preference_loss_equals_that_of_trl(name: str, loss: PreferenceLoss, golden: dict[str, Any]) -> None:
    policy = outputs(golden, "policy", loss.uses_average_logps)
    reference = None if loss.is_reference_free else outputs(golden, "reference", loss.uses_average_logps)
    kl = {"kl": torch.tensor(golden["losses"]["kto_kl"])} if loss.uses_kl else {}
    losses, _, _ = loss(policy, reference, **kl)
    expected = golden["losses"][name]
    ours = losses if isinstance(expected, list) else losses.mean()
    assert torch.allclose(ours, torch.tensor(expected), atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {"epsilon": 0.2, "kl_coeff": 0.04, "normalize": "sequence"}),
        ("bnpo", {"epsilon": 0.2, "kl_coeff": 0.04, "normalize": "token"}),
        ("dapo", {"epsilon": 0.2, "epsilon_high": 0.28, "normalize": "token"}),
        ("dr_grpo", {"epsilon": 0.2, "normalize": "constant", "max_tokens": 6}),
    ],
)
def test_group_loss_equals_that_of_trl(name: str, settings: dict[str, Any], golden: dict[str, Any]) -> None:
    group = {key: torch.tensor(value) for key, value in golden["groups"].items()}
    loss, *_ = GroupPolicyLoss(**settings)(
        group["old"], group["new"], group["reference"], group["advantages"], group["mask"].bool()
    )
    assert loss.item() == pytest.approx(golden["losses"][name], abs=1e-5)


CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = -0.7, -1.9, -1.1, -1.4


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (DPOLoss(0.5), -math.log(sigmoid(0.5 * (0.4 + 0.5)))),
        (DPOLoss(0.5, 0.2), -0.8 * math.log(sigmoid(0.45)) - 0.2 * math.log(sigmoid(-0.45))),
        (RSOLoss(0.5), 1 - 0.5 * 0.9),
        (RSOLoss(2.0), 0.0),
        (IPOLoss(0.5), (0.9 - 1) ** 2),
        (KTOLoss(0.5), ((1 - sigmoid(0.5 * 0.4)) + (1 - sigmoid(0.5 * 0.5))) / 2),
        (SimPOLoss(2.0, 0.5), -math.log(sigmoid(2.0 * 1.2 - 0.5))),
        (
            ORPOLoss(0.5),
            0.7
            - 0.5
            * math.log(
                sigmoid(
                    math.log(math.exp(CHOSEN) / (1 - math.exp(CHOSEN)))
                    - math.log(math.exp(REJECTED) / (1 - math.exp(REJECTED)))
                )
            ),
        ),
    ],
)
def test_preference_loss_is_its_formula(loss: PreferenceLoss, expected: float) -> None:
    def said(chosen: float, rejected: float) -> ChosenRejectedOutputs:
        return ChosenRejectedOutputs(*(torch.tensor([x]) for x in (chosen, rejected, chosen, rejected)))

    losses, _, _ = loss(said(CHOSEN, REJECTED), said(REF_CHOSEN, REF_REJECTED))
    assert losses.tolist() == pytest.approx([expected], abs=1e-6)


def test_rewards_carry_no_gradient_and_losses_do() -> None:
    for loss in (DPOLoss(), RSOLoss(), IPOLoss(), KTOLoss(), SimPOLoss(), ORPOLoss()):
        logps = torch.tensor([[-1.0], [-2.0]], requires_grad=True)
        said = ChosenRejectedOutputs(logps[0], logps[1], logps, logps)
        losses, chosen, rejected = loss(
            said, ChosenRejectedOutputs(*[x.detach() * 1.1 for x in (*logps, logps, logps)])
        )
        losses.sum().backward()
        assert logps.grad is not None and logps.grad[0] < 0 < logps.grad[1], type(loss)
        assert not chosen.requires_grad and not rejected.requires_grad


def test_odds_of_a_certain_answer_are_finite() -> None:
    logps = torch.tensor([0.0, -1e-9, -90.0], requires_grad=True)
    losses, _, _ = ORPOLoss()(ChosenRejectedOutputs(logps, logps.flip(0), logps, logps))
    losses.sum().backward()
    assert losses.isfinite().all() and logps.grad is not None and logps.grad.isfinite().all()


def test_two_tensors_still_work_in_simpo_with_a_warning() -> None:
    chosen, rejected = torch.tensor([-1.0]), torch.tensor([-2.0])
    with pytest.deprecated_call():
        old = SimPOLoss()(chosen, rejected)
    assert old[0] == SimPOLoss()(ChosenRejectedOutputs(chosen, rejected, chosen, chosen))[0]


def test_kl_below_zero_counts_as_zero() -> None:
    said = ChosenRejectedOutputs(*[torch.tensor([-1.0])] * 4)
    assert KTOLoss()(said, said, kl=torch.tensor(-3.0))[0] == KTOLoss()(said, said)[0]


def test_ppo_loss_is_its_formula() -> None:
    old, new = torch.tensor([[-1.0, -2.0, -0.5]]), torch.tensor([[-0.8, -2.5, -0.1]])
    advantages, returns = torch.tensor([[1.0, -1.0, 5.0]]), torch.tensor([[0.5, 0.2, 9.0]])
    old_values, values = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.1, 0.0]])
    mask = torch.tensor([[True, True, False]])
    loss, policy, value, ratio, clipped = PPOLoss(0.1, 0.2, 0.5)(
        old, new, advantages, old_values, values, returns, mask, mask
    )
    # token 1: ratio 1.22 clipped to 1.1; token 2: ratio 0.61, loss max(0.61, 0.9); token 3 is padding
    assert policy.item() == pytest.approx((-1.1 + 0.9) / 2, abs=1e-5)
    # value 1: near value 0.2 errs more than 0.5; value 2: inside the range
    assert value.item() == pytest.approx(0.5 * ((0.3**2) + (0.1**2)) / 2, abs=1e-5)
    assert loss.item() == pytest.approx(policy.item() + 0.5 * value.item(), abs=1e-6)
    assert clipped.item() == pytest.approx(1.0)
    assert ratio.item() == pytest.approx(torch.exp(new - old).mean().item())


def test_masks_of_ppo_are_optional() -> None:
    args = [torch.randn(2, 3) for _ in range(6)]
    full = torch.ones(2, 3, dtype=torch.bool)
    assert torch.allclose(PPOLoss()(*args)[0], PPOLoss()(*args, full, full)[0])


@pytest.mark.parametrize("normalize", ["sequence", "token", "constant"])
def test_weighted_batches_add_up_to_the_whole(normalize: str) -> None:
    loss = GroupPolicyLoss(normalize=normalize, max_tokens=5, kl_coeff=0.1)
    old, new, ref = (-torch.rand(4, 5) for _ in range(3))
    advantages, mask = torch.randn(4), torch.arange(5) < torch.tensor([[5], [1], [3], [2]])
    whole = loss(old, new, ref, advantages, mask)[0]
    parts = [slice(0, 1), slice(1, 4)]
    weights = torch.stack([loss.weight(mask[part]) for part in parts]).float()
    split = torch.stack([loss(old[p], new[p], ref[p], advantages[p], mask[p])[0] for p in parts])
    assert torch.allclose((weights * split).sum() / weights.sum(), whole, atol=1e-6)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="'sequence', 'token' or 'constant'"):
        GroupPolicyLoss(normalize="tokens")
    with pytest.raises(ValueError, match="max_tokens"):
        GroupPolicyLoss(normalize="constant")


def test_no_reference_is_needed_without_kl() -> None:
    old, new = -torch.rand(2, 3), -torch.rand(2, 3)
    without = GroupPolicyLoss(epsilon=0.1, normalize="token")(old, new, None, torch.ones(2))
    assert without[0] == GRPOLoss(epsilon=0.1, kl_coeff=0.0)(old, new, new, torch.ones(2))[0]
