from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class DeviceSupport(Enum):
    """The kinds of device: torch's name, the name people use, the distributed backend."""

    CPU = ("cpu", "CPU", "gloo")
    CUDA = ("cuda", "GPU", "nccl")
    NPU = ("npu", "NPU", "hccl")
    XPU = ("xpu", "XPU", "ccl")
    MPS = ("mps", "MPS", "gloo")
    HPU = ("hpu", "HPU", "hccl")

    def __init__(self, device_type: str, device_name: str, communication_backend: str) -> None:
        self.device_type = device_type
        self.device_name = device_name
        self.communication_backend = communication_backend

    @staticmethod
    def from_type(device_type: str) -> DeviceSupport:
        """The member for one of torch's device types.

        Args:
            device_type: such as ``"cuda"``.

        Returns:
            The member whose ``device_type`` it is.

        Raises:
            ValueError: if the type is none of these.
        """
        for member in DeviceSupport:
            if member.device_type == device_type:
                return member
        known = ", ".join(member.device_type for member in DeviceSupport)
        raise ValueError(f"Unknown device type {device_type}, expected one of {known}.")


def _available(device_type: str) -> bool:
    import torch

    if device_type == "npu":
        try:
            import torch_npu  # noqa: F401
        except ImportError:
            return False
    backend = torch.backends.mps if device_type == "mps" else getattr(torch, device_type, None)
    return backend is not None and backend.is_available()


def _get_device_type_from_env() -> str:
    """The best device type of this machine: ``cuda``, ``npu``, ``xpu``, ``hpu``, ``mps``, else ``cpu``."""
    return next((kind for kind in ("cuda", "npu", "xpu", "hpu", "mps") if _available(kind)), "cpu")


def get_device_support() -> DeviceSupport:
    """The kind of device that this machine has."""
    return DeviceSupport.from_type(_get_device_type_from_env())


def get_torch_device_namespace() -> Any:
    """The module of torch for this machine's device, such as ``torch.cuda``.

    Raises:
        ValueError: if torch has no module for it.
    """
    import torch

    device_type = get_device_support().device_type
    namespace = getattr(torch, device_type, None)
    if namespace is None:
        raise ValueError(f"torch has no module 'torch.{device_type}' for this machine's device")
    return namespace


def get_device(device: str | None = None) -> torch.device:
    """The device to run on, indexed by torchrun's local rank where there are several.

    Args:
        device: for instance ``"cuda"`` or ``"cpu"``; default the best one that this machine has.

    Returns:
        The device, with its index where the kind has several.

    Raises:
        RuntimeError: if the device is not there, or has an index that is not this process's.
    """
    import torch

    chosen = torch.device(device if device is not None else _get_device_type_from_env())
    if chosen.type in ("cuda", "npu", "xpu", "hpu"):
        chosen = _setup_device(chosen)
    _check_usable(chosen)
    return chosen


def _setup_device(device: torch.device) -> torch.device:
    """Gives the device its index and makes it the current one."""
    import torch

    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    support = DeviceSupport.from_type(device.type)
    if not _available(device.type):
        raise RuntimeError(
            f"The device {device} was asked for, but torch sees no {support.device_name} of this type. Set device: cpu, or "
            "install a torch build and driver for it."
        )
    namespace = getattr(torch, device.type)
    if "LOCAL_RANK" in os.environ and device.index is not None and device.index != local_rank:
        raise RuntimeError(
            "You can't specify a device index when using distributed training. "
            f"Device specified is {device} but local rank is:{local_rank}"
        )
    index = device.index if device.index is not None else local_rank
    if index >= namespace.device_count():
        raise RuntimeError(
            "The local rank is larger than the number of available "
            f"{support.device_name}s: {index} of {namespace.device_count()} (they count from 0). "
            "Start fewer processes per node, or show more devices to them."
        )
    device = torch.device(device.type, index)
    namespace.set_device(device)
    return device


def _check_usable(device: torch.device) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RuntimeError(f"The device {device} was asked for, but is not available: {error}") from error


def get_world_size_and_rank() -> tuple[int, int]:
    """World size and rank of the process group; ``(1, 0)`` where there is none."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(), dist.get_rank()
    return 1, 0


def batch_to_device(batch: dict, device: torch.device) -> None:
    """Moves every tensor of a batch to a device, in place; nested dicts and flex-attention masks too.

    Args:
        batch: tensors, BlockMasks and dicts of them, by name.
        device: where to.

    Raises:
        ValueError: for a value of another kind.
    """
    for key, value in batch.items():
        if isinstance(value, dict):
            batch_to_device(value, device)
        elif hasattr(value, "to"):  # a Tensor or a BlockMask, whose import would take seconds
            batch[key] = value.to(device)
        else:
            raise ValueError(
                "To use batch_to_device, all elements in the batch must be a dict, Tensor, or BlockMask. "
                f"Got key '{key}' with value of type {type(value)}"
            )
