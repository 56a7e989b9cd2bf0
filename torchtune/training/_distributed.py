"""Process groups: starting them, asking about them, exchanging small values over them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl", "npu": "hccl", "hpu": "hccl", "mps": "gloo"}


def is_distributed() -> bool:
    """True if the process was started by torchrun: its four environment variables are set."""
    if not dist.is_available():
        return False
    return all(os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"))


def is_dtensor(value: Any) -> TypeGuard[DTensor]:
    """Whether this is a sharded tensor; where nothing is sharded, it doesn't import what shards (0.3 s, with sympy)."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(value, tensors.DTensor)


def init_distributed(**kwargs: Any) -> bool:
    """Whether there is a process group now: it is started if torchrun started this process.

    Args:
        **kwargs: for :func:`torch.distributed.init_process_group`.

    Raises:
        RuntimeError: if there was one already.
    """
    if not is_distributed():
        return False
    if dist.is_initialized():
        raise RuntimeError("torch.distributed already initialized.")
    dist.init_process_group(**kwargs)
    return True


def get_world_size_and_rank() -> tuple[int, int]:
    """Number of processes and number of this one; ``(1, 0)`` without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(), dist.get_rank()
    return 1, 0


def get_distributed_backend(device_type: str, offload_ops_to_cpu: bool = False) -> str:
    """The backend for a device, such as ``nccl`` or ``cuda:nccl,cpu:gloo``.

    Args:
        device_type: ``cuda``, ``cpu``, ...
        offload_ops_to_cpu: add gloo for tensors on the CPU, as CPU offload and asynchronous checkpoints need.

    Raises:
        ValueError: if no backend is known for the device.
    """
    known = {**_BACKENDS, **dist.Backend.default_device_backend_map}
    if device_type not in known:
        raise ValueError(f"No distributed backend for device {device_type!r}; known are {sorted(known)}")
    backend = known[device_type]
    if offload_ops_to_cpu and device_type != "cpu":
        return f"{device_type}:{backend},cpu:gloo"
    return backend


def set_torch_num_threads() -> None:
    """Share the CPU's cores evenly between the processes on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def all_reduce_sum(tensor: torch.Tensor, group: dist.ProcessGroup | None = None) -> torch.Tensor:
    """The tensor, summed over the ranks in place; without a process group it stays as it is.

    Args:
        tensor: changed in place.
        group: the ranks; None is all.
    """
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM, group=group)
    return tensor


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, on all of them."""
    world_size, _ = get_world_size_and_rank()
    values = [value] * world_size
    if world_size > 1:
        dist.all_gather_object(values, value)
    return values


def per_rank(value: Any) -> Any:
    """One value per rank, gathered on all of them: the value itself for one process, else ``{"per_rank": [...]}``."""
    return {"per_rank": gathered(value)} if get_world_size_and_rank()[0] > 1 else value


def own_part(value: Any) -> Any:
    """This rank's part of what :func:`per_rank` made; the first rank's where the number of ranks has grown."""
    if isinstance(value, dict) and set(value) == {"per_rank"}:
        parts, (_, rank) = value["per_rank"], get_world_size_and_rank()
        return parts[rank] if rank < len(parts) else parts[0]
    return value


@contextmanager
def first_rank_writes() -> Iterator[bool]:
    """Something that rank 0 writes and the others wait for; where it fails, it fails on all of them."""
    world_size, rank = get_world_size_and_rank()
    said: list[Any] = [None]
    try:
        yield rank == 0
    except Exception as error:
        said = [f"{type(error).__name__}: {error}"]
        raise
    finally:
        if world_size > 1:
            dist.broadcast_object_list(said, src=0)
    if said[0] is not None:
        raise OSError(f"rank 0 could not write: {said[0]}")


def barrier() -> None:
    """Wait for all ranks, where there are several."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
