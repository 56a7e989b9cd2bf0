"""A model whose layers or sequences are split over ranks, once more with whole ones, to generate with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchtune.training._sharding import _full, get_shard_conditions, load_from_full_model_state_dict, shard_model
from torchtune.training.precision import set_default_dtype


class _Gathered(dict[str, Any]):
    """A state dict whose tensors are gathered one by one, as they are taken out."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__(model.state_dict())
        self.device = device

    def pop(self, name: str, *_: Any) -> Any:
        return _full(super().pop(name), self.device)


def with_whole_layers(
    model: nn.Module, build: Callable[[], nn.Module], *, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """A copy, to answer with, of a model of tensor or context parallel, sharded by FSDP alone; every rank calls this.

    The copy takes the memory of the weights, divided by the number of ranks, as long as it is kept.

    Args:
        model: the model that is trained.
        build: makes it once more, unsplit.
        device: where the copy goes.
        dtype: of its weights.
    """
    with set_default_dtype(dtype), torch.device("meta"):
        whole = build()
    shard_model(whole, [get_shard_conditions], cpu_offload=False)
    load_from_full_model_state_dict(whole, _Gathered(model, device), device, strict=True)
    return whole.requires_grad_(False).eval()
