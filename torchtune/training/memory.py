"""Memory: activation checkpointing, optimizer steps inside the backward pass, statistics."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from typing import Any, Callable, Union  # noqa: UP035 (the recorded alias below is of typing.Callable)

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    _CHECKPOINT_PREFIX,
    apply_activation_checkpointing,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_log = logging.getLogger("torchtune")

ACWrapPolicyType = Union[set[type], Callable[[nn.Module, bool, int], bool]]  # noqa: UP007 (the recorded alias is a Union)
VALID_BACKENDS_FOR_MEMORY_STATS = ("cuda", "xpu", "npu", "hpu")
DEFAULT_LOG_MESSAGE = "Memory stats after model init:"


def set_activation_checkpointing(model: nn.Module, auto_wrap_policy: ACWrapPolicyType, **kwargs: Any) -> None:
    """Recompute the activations of some modules in the backward pass, in place.

    Args:
        model: the model.
        auto_wrap_policy: the modules' classes, or a function ``(module, recurse, unwrapped_numel) -> bool``.
        **kwargs: for torch's ``apply_activation_checkpointing``.
    """
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    policy = ModuleWrapPolicy(auto_wrap_policy) if isinstance(auto_wrap_policy, set) else auto_wrap_policy
    apply_activation_checkpointing(model, auto_wrap_policy=policy, **kwargs)


def cleanup_before_training() -> None:
    """Collect garbage, empty the accelerator's cache and start its peak statistics anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def keep_freed_memory(device: torch.device | str) -> bool:
    """Whether this process keeps, on the CPU, memory that is freed for the tensors of the next step (glibc can).

    glibc gives large blocks back to the system at once, and each step then waits for them to be mapped and zeroed again.
    The peak stays as it is; what is freed after it stays with the process.

    Args:
        device: where the run's tensors are; for others than ``cpu`` nothing is done.
    """
    if torch.device(device).type != "cpu" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


class OptimizerInBackwardWrapper:
    """One optimizer per parameter, each stepped as soon as its gradient is there, as one object.

    Args:
        optim_map: optimizer by parameter name.
    """

    def __init__(self, optim_map: dict[str, Optimizer]) -> None:
        self.optim_map = optim_map
        self.lr_scheduler: LRScheduler | None = None

    def state_dict(self) -> dict[str, Any]:
        """State dict by parameter name."""
        return {name: opt.state_dict() for name, opt in self.optim_map.items()}

    def load_state_dict(self, optim_ckpt_map: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned.

        Args:
            optim_ckpt_map: state of an optimizer by the name of its parameter.

        Raises:
            RuntimeError: if it has other parameters than this wrapper.
        """
        for name, state in optim_ckpt_map.items():
            if name not in self.optim_map:
                raise RuntimeError(f"Trying to load optimizer state for unexpected param {name}")
            self.optim_map[name].load_state_dict(state)
        if missing := [name for name in self.optim_map if name not in optim_ckpt_map]:
            raise RuntimeError(f"Expected to load optimizer state for params {missing}!")

    def get_optim_key(self, key: str) -> Any:
        """A setting such as ``lr``, from the first optimizer.

        Args:
            key: name of the setting.
        """
        return next(iter(self.optim_map.values())).param_groups[0][key]

    def set_lr_scheduler(self, lr_scheduler: LRScheduler) -> None:
        """Follow a schedule that was made for one of the optimizers, from its present rate on.

        Args:
            lr_scheduler: the schedule; the other optimizers get its rate.
        """
        self.lr_scheduler = lr_scheduler
        self._spread_lr()

    def step_lr_scheduler(self, epoch: int | None = None) -> None:
        """Step the schedule and give its rate to every optimizer.

        Args:
            epoch: number of the step to go to; None goes one on.

        Raises:
            RuntimeError: if no schedule was set.
        """
        if self.lr_scheduler is None:
            raise RuntimeError("step_lr_scheduler was called before set_lr_scheduler")
        self.lr_scheduler.step(epoch)
        self._spread_lr()

    def _spread_lr(self) -> None:
        rate = self.get_last_lr()
        for optimizer in self.optim_map.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):  # torchao's optimizers compile their steps for one tensor
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def get_last_lr(self) -> float:
        """The schedule's last rate.

        Raises:
            RuntimeError: if no schedule was set.
        """
        if self.lr_scheduler is None:
            raise RuntimeError("get_last_lr was called before set_lr_scheduler")
        return float(self.lr_scheduler.get_last_lr()[0])

    def step(self) -> None:
        """Nothing: the steps are made in the backward pass."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: gradients are freed in the backward pass.

        Args:
            set_to_none: taken, as optimizers do, and not used.
        """


def optimizers_of(optimizer: Optimizer | OptimizerInBackwardWrapper) -> dict[str, Optimizer]:
    """By the name of its parameter each optimizer of the backward pass; any other under ``""``."""
    return optimizer.optim_map if isinstance(optimizer, OptimizerInBackwardWrapper) else {"": optimizer}


class InBackwardSchedule:
    """A learning rate schedule for optimizers that step in the backward pass, with the methods of any other.

    Args:
        wrapper: the optimizers.
        scheduler: a schedule made for one of them.
    """

    def __init__(self, wrapper: OptimizerInBackwardWrapper, scheduler: LRScheduler) -> None:
        self.wrapper = wrapper
        self.scheduler = scheduler
        wrapper.set_lr_scheduler(scheduler)

    def step(self) -> None:
        """Give every optimizer the next rate."""
        self.wrapper.step_lr_scheduler()

    def get_last_lr(self) -> list[float]:
        """The rate that was set last."""
        return [self.wrapper.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called.

        Args:
            state_dict: what :meth:`state_dict` returned.
        """
        self.scheduler.load_state_dict(state_dict)


def create_optim_in_bwd_wrapper(
    model: nn.Module, optim_dict: dict[nn.Parameter, Optimizer]
) -> OptimizerInBackwardWrapper:
    """A wrapper of one optimizer per parameter, by the names that state dicts have.

    Args:
        model: the model; its names are used.
        optim_dict: optimizer by parameter, for every trainable one.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Names are those of state dicts, whether activations are checkpointed or not.
    named = {name.replace(_CHECKPOINT_PREFIX, ""): optim_dict[p] for name, p in trained.items()}
    return OptimizerInBackwardWrapper(named)


def register_optim_in_bwd_hooks(model: nn.Module, optim_dict: dict[nn.Parameter, Optimizer]) -> None:
    """Step a parameter's optimizer, and free its gradient, as soon as the backward pass has made it.

    Args:
        model: the model.
        optim_dict: optimizer by parameter, for every trainable one.
    """

    def step(param: torch.Tensor) -> None:
        optimizer = optim_dict[param]  # type: ignore[index]
        optimizer.step()
        optimizer.zero_grad()

    for param in model.parameters():
        if param.requires_grad:
            param.register_post_accumulate_grad_hook(step)


def get_memory_stats(device: torch.device, reset_stats: bool = True) -> dict[str, float]:
    """Peak memory since the last reset, in GiB.

    Args:
        device: an accelerator, or the CPU.
        reset_stats: start the accelerator's peaks anew.

    Returns:
        ``peak_memory_active``, ``peak_memory_alloc`` and ``peak_memory_reserved``; for the CPU ``peak_memory_rss``, the
        process's peak of resident memory.

    Raises:
        ValueError: if the device keeps no statistics.
    """
    gib = 1024**3
    if device.type == "cpu":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_memory_rss": peak / gib if sys.platform == "darwin" else peak * 1024 / gib}
    if device.type not in VALID_BACKENDS_FOR_MEMORY_STATS:
        raise ValueError(
            f"Logging memory stats is not supported on {device.type} devices; it is on {VALID_BACKENDS_FOR_MEMORY_STATS}"
        )
    namespace = torch.get_device_module(device)
    stats = {
        "peak_memory_active": namespace.memory_stats().get("active_bytes.all.peak", 0) / gib,
        "peak_memory_alloc": namespace.max_memory_allocated(device) / gib,
        "peak_memory_reserved": namespace.max_memory_reserved(device) / gib,
    }
    if reset_stats:
        namespace.reset_peak_memory_stats(device)
    return stats


def log_memory_stats(stats: dict[str, float], message: str = DEFAULT_LOG_MESSAGE) -> None:
    """Log what :func:`get_memory_stats` returned, one line each.

    Args:
        stats: values in GiB.
        message: first line.
    """
    lines = [f"\n\t{name.replace('_', ' ').capitalize()}: {value:.2f} GiB" for name, value in stats.items()]
    _log.info("%s%s", message, "".join(lines))
