"""Activations: some computed again in the backward pass, or kept on the CPU between the forward and the backward pass."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper as _torch_wrapper
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

_log = logging.getLogger("torchtune")
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


@dataclass
class _Stashed:
    """An activation that was moved: its copy, and where it belongs."""

    copy: torch.Tensor
    device: torch.device


class OffloadActivations(saved_tensors_hooks):
    """Keep what autograd saves in the CPU's memory until the backward pass asks for it.

    Only tensors on an accelerator move, and of them only activations: not parameters, not small ones.

    Args:
        use_pin_memory: page-locked memory, which is faster to copy and can't be swapped out.
        use_streams: copy beside the computation, on a stream of its own.
        max_fwd_stash_size: with streams, how many activations may be on their way to the CPU at once.
        min_offload_size: bytes; smaller tensors stay.

    Raises:
        ValueError: if a size isn't positive.
    """

    def __init__(
        self,
        use_pin_memory: bool = True,
        use_streams: bool = True,
        max_fwd_stash_size: int = 5,
        min_offload_size: int = 1024,
    ) -> None:
        if max_fwd_stash_size < 1 or min_offload_size < 0:
            raise ValueError(
                f"max_fwd_stash_size must be 1 or more and min_offload_size 0 or more, found {max_fwd_stash_size} and "
                f"{min_offload_size}"
            )
        self.use_pin_memory = use_pin_memory
        self.use_streams = use_streams
        self.max_fwd_stash_size = max_fwd_stash_size
        self.min_offload_size = min_offload_size
        self._stream: Any = None
        self._on_their_way: deque[tuple[Any, torch.Tensor]] = deque()
        super().__init__(self._pack, self._unpack)

    def _side_stream(self, most_on_their_way: int) -> Any:
        """The stream for copies, when no more than so many of those that were begun are still under way."""
        while len(self._on_their_way) > most_on_their_way:
            event, _ = self._on_their_way.popleft()
            torch.cuda.current_stream().wait_event(event)
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        return self._stream

    def _stays(self, tensor: torch.Tensor) -> bool:
        if tensor.device.type == "cpu" or type(tensor) is not torch.Tensor:  # parameters have a type of their own
            return True
        # A view of a parameter (a transposed weight) is no activation either.
        if isinstance(tensor._base, nn.Parameter):
            return True
        return tensor.numel() * tensor.element_size() < self.min_offload_size

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor | _Stashed:
        if self._stays(tensor):
            return tensor
        copy = torch.empty_like(tensor, device="cpu", pin_memory=self.use_pin_memory and tensor.is_cuda)
        if not (self.use_streams and tensor.is_cuda):
            copy.copy_(tensor, non_blocking=self.use_pin_memory)
            return _Stashed(copy, tensor.device)
        stream = self._side_stream(self.max_fwd_stash_size - 1)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            copy.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()
            event.record(stream)
        self._on_their_way.append((event, tensor))  # the memory may be used again only when the copy is done
        return _Stashed(copy, tensor.device)

    def _unpack(self, saved: torch.Tensor | _Stashed) -> torch.Tensor:
        if not isinstance(saved, _Stashed):
            return saved
        if not (self.use_streams and saved.device.type == "cuda"):
            return saved.copy.to(saved.device, non_blocking=self.use_pin_memory)
        stream, current = self._side_stream(0), torch.cuda.current_stream()
        with torch.cuda.stream(stream):
            restored = saved.copy.to(saved.device, non_blocking=True)
        current.wait_stream(stream)
        restored.record_stream(current)
        return restored


class NoOpManager(saved_tensors_hooks):
    """Leave what autograd saves where it is, inside another manager."""

    def __init__(self) -> None:
        super().__init__(lambda tensor: tensor, lambda tensor: tensor)


def get_act_offloading_ctx_manager(
    model: nn.Module, enable_activation_offloading: bool, use_streams: bool = True
) -> OffloadActivations | contextlib.nullcontext:
    """The context for the forward pass; the output layer's activations, which the backward pass uses at once, stay.

    Args:
        model: the model; hooks are put on its output layer.
        enable_activation_offloading: False gives a context that does nothing.
        use_streams: copy beside the computation.
    """
    if not enable_activation_offloading:
        return contextlib.nullcontext()
    decoder = getattr(model, "decoder", model)
    output = getattr(decoder, "output", None)
    if isinstance(output, nn.Module):
        keep = NoOpManager()
        output.register_forward_pre_hook(lambda *_: keep.__enter__())
        output.register_forward_hook(lambda *_: keep.__exit__(), always_call=True)
    else:
        _log.warning("No output layer found in %s; its activations are offloaded too.", type(model).__name__)
    return OffloadActivations(use_streams=use_streams)
