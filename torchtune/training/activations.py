"""Selective activation checkpointing: every n-th layer, or every second matrix product."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper as _torch_wrapper
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

_MATMUL = torch.ops.aten.mm.default
# Costly to compute again: their results are kept.
_KEEP = {
    _MATMUL,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops._c10d_functional.reduce_scatter_tensor.default,
}


def _contexts() -> Any:
    """Contexts that keep attention and every second matrix product, and recompute the rest."""
    products: dict[str, int] = defaultdict(int)

    def policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        phase = "recompute" if ctx.is_recompute else "forward"
        if op == _MATMUL:
            products[phase] += 1
        keep = op in _KEEP and not (op == _MATMUL and products[phase] % 2 == 0)
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def checkpoint_wrapper(module: nn.Module, ac_mode: str, ac_style: int | str | None) -> nn.Module:
    """A layer wrapped so that (some of) its activations are computed again in the backward pass.

    Args:
        module: the layer.
        ac_mode: ``full`` or ``selective``.
        ac_style: for ``selective``: ``op`` keeps attention and every second matrix product; a number (which layers are
            wrapped is the caller's choice) recomputes all, as ``full`` does.

    Raises:
        ValueError: if mode or style isn't one of these.
    """
    if ac_mode not in ("full", "selective"):
        raise ValueError(f"ac_mode is {ac_mode!r}; expected 'full', 'selective' or null")
    if ac_mode == "selective" and ac_style == "op":
        return _torch_wrapper(module, checkpoint_impl=CheckpointImpl.NO_REENTRANT, context_fn=_contexts)
    if ac_mode == "selective":
        _every(ac_style)
    return _torch_wrapper(module, checkpoint_impl=CheckpointImpl.NO_REENTRANT)


def _every(ac_option: int | str | None) -> int:
    """The number n of an option that says "every n-th layer"."""
    if not str(ac_option).isdigit() or int(str(ac_option)) < 1:
        raise ValueError(
            f"ac_option is {ac_option!r}; expected 'op' or a number from 1 for selective activation checkpointing"
        )
    return int(str(ac_option))


def apply_selective_activation_checkpointing(model: nn.Module, ac_mode: str, ac_option: int | str | None) -> None:
    """Wrap a model's layers, in place.

    Args:
        model: a decoder, or a model with a ``decoder``.
        ac_mode: ``full`` for every layer, ``selective`` as the option says.
        ac_option: ``op``, or a number n to wrap the n-th layer, the 2n-th and so on.

    Raises:
        ValueError: if mode or option isn't known.
    """
    every = _every(ac_option) if ac_mode == "selective" and ac_option != "op" else 1
    layers: nn.ModuleList = getattr(model, "decoder", model).layers  # type: ignore[assignment]
    for number, (name, layer) in enumerate(list(layers.named_children()), start=1):
        if number % every == 0:
            layers.register_module(name, checkpoint_wrapper(layer, ac_mode, ac_option))
