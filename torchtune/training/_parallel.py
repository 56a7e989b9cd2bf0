"""Device meshes, tensor parallel and context parallel."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@dataclass
class ParallelDims:
    """How many ranks each kind of parallelism takes; their product is the world size.

    Args:
        dp_replicate: copies of the sharded model (HSDP).
        dp_shard: ranks that a copy is sharded over (FSDP); -1 takes what the others leave.
        tp: ranks of tensor parallel.
        cp: ranks of context parallel.
        world_size: all ranks.

    Raises:
        ValueError: if a value isn't positive, or the product isn't the world size.
    """

    dp_replicate: int
    dp_shard: int
    tp: int
    cp: int
    world_size: int

    def __post_init__(self) -> None:
        others = self.dp_replicate * self.tp * self.cp
        if min(self.dp_replicate, self.tp, self.cp) < 1 or (self.dp_shard < 1 and self.dp_shard != -1):
            raise ValueError(f"Parallel dims must be 1 or more (dp_shard may be -1 for the rest), found {self}")
        if self.dp_shard == -1:
            self.dp_shard = max(1, self.world_size // others)
        if self.dp_shard * others != self.world_size:
            raise ValueError(
                f"Invalid parallel dims: dp_replicate({self.dp_replicate}) * dp_shard({self.dp_shard}) * tp({self.tp}) * "
                f"cp({self.cp}) != WORLD_SIZE({self.world_size}). Change the dims, or --nproc-per-node."
            )

    def build_mesh(self, device_type: str, *, keep_all: bool = False) -> DeviceMesh:
        """The mesh of all ranks.

        Dimensions over 1 are named ``dp_replicate``, ``dp_shard``, ``cp``, ``tp``. Flattened views are ``dp`` (for
        reading data), ``dp_shard_cp`` (for sharding parameters) and ``dp_cp`` (for adding up losses), where they exist.

        Args:
            device_type: ``cuda`` or ``cpu``.
            keep_all: keep dimensions of size 1 too.
        """
        sizes = {"dp_replicate": self.dp_replicate, "dp_shard": self.dp_shard, "cp": self.cp, "tp": self.tp}
        used = {name: size for name, size in sizes.items() if keep_all or size > 1} or {"dp_shard": 1}
        mesh = init_device_mesh(device_type, tuple(used.values()), mesh_dim_names=tuple(used))
        views = {
            "dp": ("dp_replicate", "dp_shard"),
            "dp_shard_cp": ("dp_shard", "cp"),
            "dp_cp": ("dp_replicate", "dp_shard", "cp"),
        }
        for view, names in views.items():
            if present := tuple(name for name in names if name in used):
                mesh[present]._flatten(mesh_dim_name=view)
        return mesh

    @property
    def dp_enabled(self) -> bool:
        """Whether data are split over ranks."""
        return self.dp_replicate > 1 or self.dp_shard > 1

    @property
    def dp_replicate_enabled(self) -> bool:
        """Whether the model is replicated (HSDP)."""
        return self.dp_replicate > 1

    @property
    def dp_shard_enabled(self) -> bool:
        """Whether the model is sharded (FSDP)."""
        return self.dp_shard > 1

    @property
    def tp_enabled(self) -> bool:
        """Whether layers are split (tensor parallel)."""
        return self.tp > 1

    @property
    def cp_enabled(self) -> bool:
        """Whether sequences are split (context parallel)."""
        return self.cp > 1

    @property
    def non_data_parallel_size(self) -> int:
        """Ranks that see the same data."""
        return self.cp * self.tp

    @property
    def min_seq_len_divisor(self) -> int:
        """What sequence lengths must be a multiple of: ``tp`` for sequence parallel, ``2 * cp`` for balanced halves."""
        return self.tp * (self.cp * 2)


def prepare_mha_for_tp(model: nn.Module, tp_mesh: DeviceMesh) -> nn.Module:
    """The model, the head counts of each attention layer divided by the number of tensor parallel ranks in place.

    Args:
        model: a decoder, or a fusion model.
        tp_mesh: one-dimensional mesh.

    Raises:
        ValueError: if heads, key-value heads or the embedding can't be divided evenly.
    """
    from torchtune.modules import MultiHeadAttention

    size = tp_mesh.size()
    for name, module in model.named_modules():
        if not isinstance(module, MultiHeadAttention):
            continue
        counts = {key: getattr(module, key) for key in ("num_heads", "num_kv_heads", "embed_dim")}
        for key, count in counts.items():
            if count % size:
                raise ValueError(f"{name}.{key} ({count}) must be divisible by the tensor parallel size ({size})")
            setattr(module, key, count // size)
    return model


def get_context_parallel_manager(
    *, enabled: bool = False, rotate_method: str = "allgather", world_mesh: DeviceMesh, model: nn.Module
) -> Callable[[list[torch.Tensor]], AbstractContextManager[None]]:
    """What splits a batch along its sequences for the ranks of the mesh's ``cp`` dimension.

    Args:
        enabled: False gives a manager that does nothing.
        rotate_method: how keys and values travel: ``allgather`` or ``alltoall``.
        world_mesh: mesh with a ``cp`` dimension.
        model: the model, for checks.

    Returns:
        A function of the batch's tensors ``[b, s]``, to be used in a ``with`` statement around forward and backward. The
        batch must hold ``input_pos``: a rank's tokens aren't the first of their sequence.

    Raises:
        ValueError: if the mesh has no ``cp`` dimension, the method isn't known, or the model's attention is chunked.
    """
    if not enabled:
        return lambda buffers: nullcontext()
    if rotate_method not in ("allgather", "alltoall"):
        raise ValueError(f"context_parallel_rotate_method is {rotate_method!r}; expected 'allgather' or 'alltoall'")
    if "cp" not in (world_mesh.mesh_dim_names or ()):
        raise ValueError(f"Context parallel needs a mesh dimension 'cp' over 1; found {world_mesh.mesh_dim_names}")
    chunked = (type(m).__name__ == "Llama4ScaledRoPE" or hasattr(m, "attention_chunk_size") for m in model.modules())
    if any(chunked):
        raise ValueError("Context parallel doesn't support models with chunked attention (Llama 4)")

    @contextmanager
    def manager(buffers: list[torch.Tensor]) -> Generator[None, None, None]:
        from torch.distributed.tensor.experimental import context_parallel
        from torch.distributed.tensor.experimental._attention import set_rotate_method
        from torch.nn.attention import SDPBackend, sdpa_kernel

        set_rotate_method(rotate_method)
        dims = [1] * len(buffers)
        with (
            sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]),
            context_parallel(world_mesh["cp"], buffers=buffers, buffer_seq_dims=dims, no_restore_buffers=set(buffers)),
        ):
            yield

    return manager


def get_train_context(enable_loss_parallel: bool) -> Callable[..., AbstractContextManager[None]]:
    """A function of an optional context parallel context, which gives the context for forward and backward passes.

    Args:
        enable_loss_parallel: the logits are sharded over the vocabulary, and the cross entropy is computed on shards.
    """

    @contextmanager
    def context(cp_context: AbstractContextManager[Any] | None = None) -> Generator[None, None, None]:
        loss_context: AbstractContextManager[Any] = nullcontext()
        if enable_loss_parallel:
            from torch.distributed.tensor.parallel import loss_parallel

            loss_context = loss_parallel()
        with loss_context, cp_context or nullcontext():
            yield

    return context
