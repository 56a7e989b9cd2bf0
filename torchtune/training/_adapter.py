"""Adapters in a recipe: their start values, and what PEFT needs to know of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchtune.modules.peft import AdapterModule, get_adapter_params


def get_adapter_config(model: nn.Module) -> dict[str, Any] | None:
    """What a checkpoint says of a model's adapter, read off its modules: ``r``, ``lora_alpha``, ``target_modules``,
    ``peft_type`` and, for DoRA, ``use_dora``; None for a model without adapter.

    Args:
        model: the model.

    Raises:
        ValueError: if the adapters have different ranks or scales, which the adapter's file cannot express.
    """
    found: Any = model.named_modules()
    modules: dict[str, Any] = {name: m for name, m in found if isinstance(m, AdapterModule) and hasattr(m, "rank")}
    if not modules:
        return None
    kinds = {(m.rank, m.alpha) for m in modules.values()}
    if len(kinds) > 1:
        raise ValueError(f"All adapters of a model need one rank and one alpha, found {sorted(kinds)}")
    rank, alpha = kinds.pop()
    config = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
        "peft_type": "LORA",
    }
    if any("magnitude" in m.adapter_params() for m in modules.values()):
        config["use_dora"] = True
    return config


def initial_adapter(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """The start values, by parameter, of the adapters of a model on the meta device: the same on any number of ranks.

    Args:
        model: the model.
        seed: of the draws, the same on all ranks; the ranks' own generators stay as they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, AdapterModule) and isinstance(module, nn.Module):
                module.to_empty(device="cpu")
                module.initialize_parameters()  # type: ignore[operator]
    drawn = {name: parameter.detach() for name, parameter in get_adapter_params(model).items()}
    model.to(device="meta")
    return drawn


def finish_adapter(model: nn.Module) -> None:
    """Sets what of a new adapter depends on the base weights: the magnitudes of DoRA.

    Args:
        model: the model, its weights loaded.
    """
    for module in model.modules():
        if hasattr(module, "initialize_dora_magnitude"):
            module.initialize_dora_magnitude()  # type: ignore[operator]
