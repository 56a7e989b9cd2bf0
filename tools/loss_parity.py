"""The table of docs/preference.md: losses of torchtune.rlhf beside TRL's on the same numbers.

    python tools/loss_parity.py                  # against the numbers that are committed
    python tools/loss_parity.py --trl FOLDER     # against TRL itself: FOLDER has an unpacked wheel of trl 1.16.0

TRL's trainers are not run: their loss methods are called with a stand-in for the trainer and a model that answers with the
committed logits. TRL has no PPO any more; its row is the formula, written out token by token.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from torchtune.rlhf import ChosenRejectedOutputs, get_batch_log_probs
from torchtune.rlhf.loss import DPOLoss, GroupPolicyLoss, IPOLoss, KTOLoss, ORPOLoss, PPOLoss, RSOLoss, SimPOLoss

NUMBERS = Path(__file__).parents[1] / "tests" / "assets" / "rlhf" / "trl_losses.json"
PREFERENCES: dict[str, Any] = {
    "dpo": DPOLoss(beta=0.3), "rso": RSOLoss(gamma=0.3), "ipo": IPOLoss(beta=0.3),
    "kto": KTOLoss(beta=0.3, desirable_weight=1.2, undesirable_weight=0.8), "orpo": ORPOLoss(beta=0.3),
    "simpo": SimPOLoss(beta=2.0, gamma=0.5, label_smoothing=0.1),
}  # fmt: skip
GROUPS: dict[str, dict[str, Any]] = {
    "grpo": {"kl_coeff": 0.04, "normalize": "sequence"}, "bnpo": {"kl_coeff": 0.04, "normalize": "token"},
    "dapo": {"epsilon_high": 0.28, "normalize": "token"}, "dr_grpo": {"normalize": "constant", "max_tokens": 6},
}  # fmt: skip


def tensors(data: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The lists of numbers among the values."""
    return {key: torch.tensor(value) for key, value in data.items()}


def ours(numbers: dict[str, Any]) -> dict[str, float]:
    """Means of torchtune's losses."""
    rows, group, found = tensors(numbers["preferences"]), tensors(numbers["groups"]), {}
    labels = rows["ids"].masked_fill(rows["mask"] == 0, -100)
    for name, loss in PREFERENCES.items():
        policy, reference = (
            ChosenRejectedOutputs(
                *get_batch_log_probs(logits, labels, -100, loss.uses_average_logps).chunk(2), logits, logits
            )
            for logits in (rows["policy_logits"], rows["reference_logits"])
        )
        kl = {"kl": torch.tensor(numbers["losses"]["kto_kl"])} if loss.uses_kl else {}
        found[name] = loss(policy, None if loss.is_reference_free else reference, **kl)[0].mean().item()
    answers = (group["old"], group["new"], group["reference"], group["advantages"], group["mask"].bool())
    for name, settings in GROUPS.items():
        found[name] = GroupPolicyLoss(epsilon=0.2, **settings)(*answers)[0].item()
    old, new, values, _, mask = answers
    returns, advantages = values + 0.5 * old, group["advantages"].unsqueeze(-1).expand_as(old)
    found["ppo"] = PPOLoss(0.2, 0.1, 0.5)(old, new, advantages, values, new, returns, mask, mask)[0].item()
    return found


def ppo_by_hand(group: dict[str, Any]) -> float:
    """The formula of PPO, token by token."""
    total = count = 0.0
    for row, mask in enumerate(group["mask"]):
        for t in (t for t, counts in enumerate(mask) if counts):
            old, new, value = (group[key][row][t] for key in ("old", "new", "reference"))
            ratio, advantage = 2.718281828459045 ** (new - old), group["advantages"][row]
            gain = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            target, near = value + 0.5 * old, min(max(new, value - 0.1), value + 0.1)
            total += -gain + 0.5 * 0.5 * max((new - target) ** 2, (near - target) ** 2)
            count += 1
    return total / count


class Answers:
    """A model that gives log-probabilities of fixed logits."""

    training = True

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def logprobs(self, labels: torch.Tensor) -> torch.Tensor:
        """Of each label but the first; 0 for those that don't count."""
        every = torch.log_softmax(self.logits[:, :-1].float(), -1)
        chosen = every.gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return chosen * (labels[:, 1:] != -100)

    def __call__(self, labels: torch.Tensor, **_: Any) -> Any:
        zeros = torch.zeros(labels.shape[0], labels.shape[1] - 1)
        names = ("entropy", "log_sum_sq_probs", "mean_logits", "correct", "predictions")
        return SimpleNamespace(
            log_probs=self.logprobs(labels), loss=torch.tensor(0.0), aux_loss=None, logits=self.logits,
            num_correct=torch.tensor(1), is_top1=zeros.bool(), **dict.fromkeys(names, zeros),
        )  # fmt: skip


def trl(numbers: dict[str, Any]) -> dict[str, float]:
    """Means of TRL's losses, by its own code."""
    import trl.trainer.dpo_trainer as dpo
    import trl.trainer.kto_trainer as kto
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer
    from trl.trainer.grpo_trainer import GRPOTrainer

    for module in (dpo, kto):
        module.is_peft_model = lambda _: False
        module.disable_gradient_checkpointing = lambda *_, **__: contextlib.nullcontext()
    rows, found = tensors(numbers["preferences"]), {}
    policy, reference = Answers(rows["policy_logits"]), Answers(rows["reference_logits"])
    labels = rows["ids"].masked_fill(rows["mask"] == 0, -100)
    batch = {
        "input_ids": rows["ids"], "completion_mask": rows["mask"], "attention_mask": torch.ones_like(rows["ids"]),
        "label": torch.tensor([True] * 3 + [False] * 3),
    }  # fmt: skip

    def trainer(**settings: Any) -> Any:
        stand_in = MagicMock()
        stand_in.accelerator.device, stand_in.accelerator.num_processes = "cpu", 1
        stand_in.accelerator.gather_for_metrics = stand_in.accelerator.gather = lambda x: x
        common = {
            "aux_loss_enabled": False,
            "ref_model": reference,
            "use_weighting": False,
            "model": policy,
            "beta": 0.3,
        }
        common |= {"precompute_ref_logps": False, "_metrics": {"train": defaultdict(list)}, "label_smoothing": 0.0}
        for key, value in {**common, **settings}.items():
            setattr(stand_in, key, value)
        return stand_in

    for name, kind in (("dpo", "sigmoid"), ("rso", "hinge"), ("ipo", "ipo")):
        own = trainer(ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[kind], loss_weights=[1.0])
        found[name] = float(dpo.DPOTrainer._compute_loss(own, policy, batch, False))
    kl = iter([torch.full((6,), float(numbers["losses"]["kto_kl"])), torch.zeros(6)])
    own = trainer(loss_type="kto", calculate_KL=True, desirable_weight=1.2, undesirable_weight=0.8)
    own._compute_kl_logps = lambda *_: next(kl)
    found["kto"] = float(kto.KTOTrainer._compute_loss(own, policy, batch, False))
    mean = policy.logprobs(labels).sum(-1) / rows["mask"][:, 1:].sum(-1)
    found["orpo"] = float((-mean[:3] - ORPOTrainer.odds_ratio_loss(trainer(), mean[:3], mean[3:])[0]).mean())
    own = trainer(beta=2.0, alpha=0.0, loss_type="simpo", simpo_gamma=0.5, label_smoothing=0.1)
    found["simpo"] = float(CPOTrainer.cpo_loss(own, mean[:3], mean[3:])[0].mean())
    return found | {name: _trl_group(GRPOTrainer, trainer, name, numbers["groups"]) for name in GROUPS}


def _trl_group(trainer_class: Any, trainer: Any, name: str, numbers: dict[str, Any]) -> float:
    group, settings = tensors(numbers), GROUPS[name]
    new, mask = group["new"], group["mask"]
    own = trainer(
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token", epsilon_low=0.2,
        beta=settings.get("kl_coeff", 0.0), epsilon_high=settings.get("epsilon_high", 0.2), loss_type=name, use_vllm=False,
        current_gradient_accumulation_steps=1, max_completion_length=new.shape[1], _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new), None),
    )  # fmt: skip
    own.args.use_bias_correction_kl, own.args.delta, own.args.steps_per_generation = False, None, 1
    batch = {
        "prompt_ids": torch.zeros(len(new), 1, dtype=torch.long), "prompt_mask": torch.ones(len(new), 1),
        "completion_ids": torch.zeros_like(mask), "completion_mask": mask, "tool_mask": torch.ones_like(mask),
        "advantages": group["advantages"], "old_per_token_logps": group["old"], "ref_per_token_logps": group["reference"],
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    return float(trainer_class._compute_loss(own, None, batch))


def table(folder: Path | None = None) -> str:
    """The table, in Markdown.

    Args:
        folder: an unpacked wheel of TRL. Default: the numbers that are committed.
    """
    numbers = json.loads(NUMBERS.read_text())
    recorded = {key: sum(v) / len(v) if isinstance(v, list) else v for key, v in numbers["losses"].items()}
    if folder is not None:
        sys.path.insert(0, str(folder))
        recorded = trl(numbers)
    recorded["ppo"] = ppo_by_hand(numbers["groups"])
    names = {"bnpo": "token mean", "dr_grpo": "Dr. GRPO", "simpo": "SimPO", "ppo": "PPO (formula)"}
    lines = ["| loss | TRL 1.16.0 | torchtune | difference |", "|---|---|---|---|"]
    for key, value in ours(numbers).items():
        row = (
            f"| {names.get(key, key.upper())} | {recorded[key]:.6f} | {value:.6f} | {abs(value - recorded[key]):.0e} |"
        )
        lines.append(row)
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", type=Path, help="folder with an unpacked wheel of trl 1.16.0")
    print(table(parser.parse_args().trl))
