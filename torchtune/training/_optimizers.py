"""Optimizers and schedules as a config names them, of one step for all parameters or of one in the backward pass for each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torch import nn

from torchtune import config
from torchtune.training.memory import (
    InBackwardSchedule,
    create_optim_in_bwd_wrapper,
    register_optim_in_bwd_hooks,
)

# Settings that count something, so that 0 means nothing that a run could do
_COUNTS = ("batch_size", "batch_size_val", "gradient_accumulation_steps", "epochs", "log_every_n_steps")


def check_step_settings(cfg: DictConfig) -> None:
    """Refuses settings of the step that count nothing, or contradict each other.

    Args:
        cfg: a recipe's config.

    Raises:
        ValueError: with the keys and what they are.
    """
    for key in _COUNTS:
        count = cfg.get(key)
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"{key} is {count!r}; expected a whole number from 1")
    limit = cfg.get("max_steps_per_epoch")
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise ValueError(f"max_steps_per_epoch is {limit!r}; expected a whole number, or null for all rows")
    steps = cfg.get("gradient_accumulation_steps") or 1
    if cfg.get("optimizer_in_bwd") and (cfg.get("clip_grad_norm") is not None or steps > 1):
        raise ValueError(
            "optimizer_in_bwd: true steps each parameter as soon as its gradient is there, so it allows neither "
            f"clip_grad_norm (is {cfg.get('clip_grad_norm')}) nor gradient_accumulation_steps > 1 (is {steps}); set these "
            "to null and 1, or optimizer_in_bwd: false"
        )
    if cfg.get("optimizer_in_bwd") and cfg.get("on_nan_loss") == "skip":
        raise ValueError("on_nan_loss: skip comes too late with optimizer_in_bwd: true; set one of them otherwise")
    if cfg.get("enable_activation_offloading") and not cfg.get("enable_activation_checkpointing"):
        raise ValueError("enable_activation_offloading: true needs enable_activation_checkpointing: true")


def build_optimizer(cfg: DictConfig, model: nn.Module, parameters: Sequence[nn.Parameter]) -> Any:
    """The config's ``optimizer``; with ``optimizer_in_bwd`` one for each parameter, behind the face of one.

    Args:
        cfg: a recipe's config.
        model: the model.
        parameters: those of it that are trained.
    """
    if not cfg.get("optimizer_in_bwd"):
        return config.instantiate(cfg.optimizer, parameters)
    optimizers = {parameter: config.instantiate(cfg.optimizer, [parameter]) for parameter in parameters}
    register_optim_in_bwd_hooks(model=model, optim_dict=optimizers)
    return create_optim_in_bwd_wrapper(model=model, optim_dict=optimizers)


def build_lr_scheduler(cfg: DictConfig, optimizer: Any, num_training_steps: int) -> Any:
    """The config's ``lr_scheduler``, None if it has none.

    Args:
        cfg: a recipe's config.
        optimizer: what :func:`build_optimizer` gave.
        num_training_steps: optimizer steps of the run.
    """
    if cfg.get("lr_scheduler") is None:
        return None
    build = partial(config.instantiate, cfg.lr_scheduler, num_training_steps=num_training_steps)
    if cfg.get("optimizer_in_bwd"):
        return InBackwardSchedule(optimizer, build(next(iter(optimizer.optim_map.values()))))
    return build(optimizer)
