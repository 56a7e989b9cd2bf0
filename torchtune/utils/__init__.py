"""Logging, devices and other small helpers. Importing it does not import torch."""

from __future__ import annotations

from torchtune.utils._device import (
    DeviceSupport,
    batch_to_device,
    get_device,
    get_device_support,
    get_torch_device_namespace,
    get_world_size_and_rank,
)
from torchtune.utils._logging import deprecate_parameter, deprecated, get_logger, log_once, log_rank_zero
from torchtune.utils._version import torch_version_ge

__all__ = [
    "DeviceSupport",
    "batch_to_device",
    "deprecate_parameter",
    "deprecated",
    "get_device",
    "get_device_support",
    "get_logger",
    "get_torch_device_namespace",
    "get_world_size_and_rank",
    "log_once",
    "log_rank_zero",
    "torch_version_ge",
]
