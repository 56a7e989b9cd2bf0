"""Gradients: scaled and clipped, sharded or not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from torchtune.training._distributed import is_dtensor


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if is_dtensor(tensor) else tensor


@torch.no_grad()
def scale_grads_(
    parameters: torch.Tensor | Iterable[torch.Tensor], scaler: torch.Tensor, foreach: bool | None = None
) -> None:
    """Multiply the gradients of parameters by a number, in place.

    Args:
        parameters: one or several; those without a gradient are passed over.
        scaler: a number as a tensor, on any device.
        foreach: False multiplies one by one; else all of a device and dtype at once.
    """
    if isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            local = _local(parameter.grad)
            groups[(local.device, local.dtype)].append(local)
    for (device, _), grads in groups.items():
        factor = scaler.to(device)
        if foreach is False:
            for grad in grads:
                grad.mul_(factor)
        else:
            torch._foreach_mul_(grads, factor)


@torch.no_grad()
def scale_grads(model: nn.Module, scaler: torch.Tensor) -> None:
    """Multiply all gradients of a model by a number, in place.

    Args:
        model: the model, sharded or not.
        scaler: a number as a tensor, on any device.
    """
    scale_grads_(model.parameters(), scaler)


@torch.no_grad()
def clip_grad_norm(parameters: torch.Tensor | Iterable[torch.Tensor], max_norm: float | None = None) -> torch.Tensor:
    """The 2-norm, in float32, of all ranks' gradients together; they are scaled down in place if it is over a limit.

    Parameters may be sharded over different meshes, or not at all.

    Args:
        parameters: one or several; those without a gradient are passed over.
        max_norm: the limit; None or infinity only measures.
    """
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    by_mesh: dict[Any, list[torch.Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            by_mesh[parameter.grad.device_mesh if is_dtensor(parameter.grad) else None].append(parameter.grad)
    if not by_mesh:
        return torch.tensor(0.0)
    norms = []
    for grads in by_mesh.values():
        norm = torch.nn.utils.get_total_norm(grads)
        norms.append((norm.full_tensor() if is_dtensor(norm) else norm).float())
    total = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    if max_norm is not None and max_norm != float("inf"):
        scale_grads_(parameters, (max_norm / (total + 1e-6)).clamp(max=1.0))
    return total
