"""What recipes share besides their loops: models with their weights, optimizers, checkpoints, logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import nn

from torchtune import config
from torchtune.modules.peft import disable_adapter, get_adapter_params, set_trainable_params
from torchtune.modules.transformer import TransformerSelfAttentionLayer
from torchtune.training._activation_offloading import get_act_offloading_ctx_manager
from torchtune.training._adapter import finish_adapter, get_adapter_config, initial_adapter
from torchtune.training._compile import compile_model
from torchtune.training._data import build_dataloader, load_loader_state, loader_state
from torchtune.training._distributed import (
    all_reduce_sum,
    get_distributed_backend,
    get_world_size_and_rank,
    init_distributed,
    is_distributed,
)
from torchtune.training._faults import LossCheck, StopSignal, fault_reports
from torchtune.training._grad_scaler import clip_grad_norm, scale_grads_
from torchtune.training._model_util import disable_dropout
from torchtune.training._parallelism import Parallelism
from torchtune.training._profiler import DummyProfiler
from torchtune.training._rng import set_rng_state
from torchtune.training._sharding import (
    load_from_full_model_state_dict,
    load_from_full_optimizer_state_dict,
    validate_no_params_on_meta_device,
)
from torchtune.training._step import CheckpointSchedule, LossAccumulator, StepLoss
from torchtune.training.activations import apply_selective_activation_checkpointing
from torchtune.training.checkpointing._checkpoint_client import CheckpointClient, TrainingProgress
from torchtune.training.checkpointing._utils import (
    ADAPTER_KEY,
    DATALOADER_KEY,
    EPOCHS_KEY,
    LR_SCHEDULER_KEY,
    MODEL_KEY,
    OPT_KEY,
    RNG_KEY,
    STEPS_KEY,
)
from torchtune.training.lr_schedulers import get_lr
from torchtune.training.memory import (
    InBackwardSchedule,
    create_optim_in_bwd_wrapper,
    get_memory_stats,
    keep_freed_memory,
    register_optim_in_bwd_hooks,
    set_activation_checkpointing,
)
from torchtune.training.precision import get_dtype, set_default_dtype
from torchtune.training.seed import set_seed
from torchtune.utils import get_device, get_logger

log = get_logger("INFO")


def build_model(
    cfg: DictConfig,
    model: DictConfig,
    state: dict[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
) -> nn.Module:
    """Builds a model without memory, shards it where there are several ranks, and gives it its weights.

    Adapters, where the model has any, are then all that is trained; dropout is off.

    Args:
        cfg: the run's settings: compile, activation checkpointing, sharding.
        model: the model's component.
        state: what a checkpointer loads; ``model`` and ``adapter`` are taken out of it.
        device: where the weights go.
        dtype: of the weights.
        seed: of a new adapter.

    Returns:
        The model, in training mode.
    """
    _, rank = get_world_size_and_rank()
    with set_default_dtype(dtype), torch.device("meta"):
        built = config.instantiate(model)
    disable_dropout(built)
    weights = {**state.pop(MODEL_KEY)}
    has_adapter, new_adapter = get_adapter_config(built) is not None, ADAPTER_KEY not in state
    if has_adapter:
        with set_default_dtype(dtype):
            weights.update(initial_adapter(built, seed) if new_adapter else state.pop(ADAPTER_KEY))
        set_trainable_params(built, get_adapter_params(built))
    if cfg.get("compile"):
        compile_model(built, verbose=rank == 0)
    if cfg.get("ac_mode"):
        apply_selective_activation_checkpointing(built, cfg.ac_mode, cfg.get("ac_option"))
    elif cfg.get("enable_activation_checkpointing"):
        set_activation_checkpointing(built, auto_wrap_policy={TransformerSelfAttentionLayer})
    offload = cfg.get("fsdp_cpu_offload", False)
    Parallelism(cfg, device).shard(built)
    load_from_full_model_state_dict(built, weights, device, strict=True, cpu_offload=offload)
    if has_adapter and new_adapter:
        finish_adapter(built)
    validate_no_params_on_meta_device(built)
    return built.train()


class Trained:
    """A model with its optimizer, schedule and checkpoints.

    Args:
        cfg: the run's settings.
        model: the config key of the model's component.
        checkpointer: the config key of its checkpointer.
        device: where it trains.
        dtype: of its weights.
        seed: of a new adapter.
    """

    def __init__(
        self, cfg: DictConfig, model: str, checkpointer: str, *, device: torch.device, dtype: torch.dtype, seed: int
    ) -> None:
        self.cfg, self.device = cfg, device
        own = cfg
        if checkpointer != "checkpointer":
            own = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
            own.checkpointer = own[checkpointer]
        self.checkpoints = CheckpointClient(own)
        self._state = self.checkpoints.load_base_checkpoint()
        self.model = build_model(cfg, cfg[model], self._state, device=device, dtype=dtype, seed=seed)
        self.adapter_config = get_adapter_config(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.activations = get_act_offloading_ctx_manager(
            self.model,
            cfg.get("enable_activation_offloading", False),
            cfg.get("activation_offloading_use_streams", True),
        )
        self.in_backward = bool(cfg.get("optimizer_in_bwd", False))
        self.optimizer = self._optimizer()
        self.lr_scheduler: Any = None
        self.losses = LossAccumulator(device)
        self.loss_check = LossCheck(cfg.get("on_nan_loss", "stop"))
        self._counted: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def _optimizer(self) -> Any:
        if not self.in_backward:
            return config.instantiate(self.cfg.optimizer, self.parameters)
        optimizers = {param: config.instantiate(self.cfg.optimizer, [param]) for param in self.parameters}
        register_optim_in_bwd_hooks(model=self.model, optim_dict=optimizers)
        return create_optim_in_bwd_wrapper(model=self.model, optim_dict=optimizers)

    def schedule(self, num_training_steps: int) -> None:
        """Makes the learning rate schedule that the config names, if it does.

        Args:
            num_training_steps: optimizer steps of the run.
        """
        if self.cfg.get("lr_scheduler") is None:
            return
        build = partial(config.instantiate, self.cfg.lr_scheduler, num_training_steps=num_training_steps)
        if self.in_backward:
            first = next(iter(self.optimizer.optim_map.values()))
            self.lr_scheduler = InBackwardSchedule(self.optimizer, build(first))
        else:
            self.lr_scheduler = build(self.optimizer)

    def backward(self, loss: torch.Tensor, weight: torch.Tensor | int, rows: Sequence[int] = ()) -> None:
        """Adds a micro-batch's gradients.

        Args:
            loss: its mean loss.
            weight: how many tokens or rows that is the mean of.
            rows: numbers of its rows, to be named should the loss be no number.
        """
        add = self.losses.add_normalized if self.in_backward else self.losses.add
        self.count(loss, weight, rows, add).backward()

    def count(
        self,
        loss: torch.Tensor,
        weight: torch.Tensor | int,
        rows: Sequence[int] = (),
        add: Callable[..., Any] | None = None,
    ) -> torch.Tensor:
        """Counts a micro-batch whose gradients come in another way; arguments as for :meth:`backward`.

        Args:
            loss: its mean loss.
            weight: how many tokens or rows that is the mean of.
            rows: numbers of its rows.
            add: what adds it up. Default: ``losses.add``.

        Returns:
            The loss, summed up.
        """
        self._counted.append((loss.detach(), {"rows": rows}))
        return (add or self.losses.add)(loss, weight)

    def step(self, number: int) -> tuple[StepLoss, float | None]:
        """An optimizer step on the gradients of the micro-batches since the last, which are clipped to ``clip_grad_norm``.

        Args:
            number: of the recipe's step, from 1, for errors.

        Returns:
            The loss over all ranks, and the norm of the gradients where it is clipped.

        Raises:
            NonFiniteLossError: if the loss is no number, unless ``on_nan_loss`` leaves such steps out.
        """
        step, norm, max_norm = self.losses.finish(), None, self.cfg.get("clip_grad_norm")
        if not self.in_backward:
            scale_grads_(self.parameters, step.grad_scale)
            if max_norm is not None:
                norm = float(clip_grad_norm(self.parameters, float(max_norm)))
        parts, batches = zip(*self._counted, strict=True)
        self._counted = []
        usable = self.loss_check(step.loss, norm, parts, batches, number)
        if not self.in_backward:
            if usable:
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        return step, norm

    def resume(self) -> dict[str, Any]:
        """Puts optimizer and schedule where the saved run left them.

        Returns:
            The saved counters and positions.
        """
        state = self._state
        if self.checkpoints.resumes_from_distributed:
            state = self.checkpoints.load_distributed_checkpoint(self.model, self.optimizer, self.adapter_config)
        else:
            load_from_full_optimizer_state_dict(self.model, self.optimizer, state[OPT_KEY], self.device)
        if self.lr_scheduler is not None and state.get(LR_SCHEDULER_KEY) is not None:
            self.lr_scheduler.load_state_dict(state[LR_SCHEDULER_KEY])
        return state


class PolicyRecipe:
    """What the recipes on preferences and rewards share. A recipe adds ``setup`` and its loop, ``train``.

    Args:
        cfg: the run's settings.

    Raises:
        ValueError: if settings contradict each other; the message names the keys.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        log.setLevel(cfg.get("log_level", "INFO"))
        self.device = get_device(cfg.device)
        self.dtype = get_dtype(cfg.dtype, device=self.device)
        self.world_size, self.rank = get_world_size_and_rank()
        self.accumulation_steps = cfg.get("gradient_accumulation_steps", 1)
        self.epochs_run = self.global_step = 0
        self.steps_per_epoch = self.total_epochs = 1
        self.data: Any = None
        self.metric_logger: Any = None
        self.stop = StopSignal(self.device)
        self.trained: dict[str, Trained] = {}
        self.policy: Trained
        self.reference: nn.Module | None = None
        self.profiler: Any = DummyProfiler()
        if cfg.get("optimizer_in_bwd") and cfg.get("on_nan_loss") == "skip":
            raise ValueError("on_nan_loss: skip comes too late with optimizer_in_bwd: true; set one of them otherwise")
        if cfg.get("optimizer_in_bwd") and (cfg.get("clip_grad_norm") is not None or self.accumulation_steps > 1):
            raise ValueError(
                "optimizer_in_bwd: true steps each parameter as soon as its gradient is there, so it allows neither "
                f"clip_grad_norm (is {cfg.get('clip_grad_norm')}) nor gradient_accumulation_steps > 1 (is "
                f"{self.accumulation_steps}); set these to null and 1, or optimizer_in_bwd: false"
            )
        if cfg.get("enable_activation_offloading") and not cfg.get("enable_activation_checkpointing"):
            raise ValueError("enable_activation_offloading: true needs enable_activation_checkpointing: true")

    def begin(self) -> None:
        """Seeds the generators, makes logger, tokenizer and profiler."""
        cfg = self.cfg
        self.seed = set_seed(cfg.get("seed"), debug_mode=cfg.get("cudnn_deterministic_mode"))
        if self.rank == 0:
            self.metric_logger = config.instantiate(cfg.metric_logger)
            self.metric_logger.log_config(cfg)
        self.tokenizer = config.instantiate(cfg.tokenizer)
        self.pad_id = getattr(self.tokenizer, "pad_id", 0)
        if cfg.get("profiler"):
            self.profiler, _ = config.instantiate(cfg.profiler)

    def load_data(self, collate_fn: Callable[[list[Any]], Any] = list, *, drop_last: bool = True) -> None:
        """Makes ``dataset`` and its loader, ``data``, whose batches are ``{"samples": ..., "rows": [number, ...]}``.

        Args:
            collate_fn: makes ``samples`` of a list of rows.
            drop_last: see :func:`build_dataloader`.
        """
        self.dataset = config.instantiate(self.cfg.dataset, self.tokenizer)
        self.data = build_dataloader(
            self.dataset,
            batch_size=self.cfg.batch_size,
            collate_fn=partial(_samples, collate_fn=collate_fn),
            shuffle=self.cfg.get("shuffle", True),
            seed=self.seed,
            num_replicas=self.world_size,
            rank=self.rank,
            drop_last=drop_last,
            number_rows=True,
        )

    def train_model(self, model: str, checkpointer: str) -> Trained:
        """A model to train, by the config keys of its component and its checkpointer.

        Args:
            model: config key of its component.
            checkpointer: config key of its checkpointer.

        Returns:
            The model with its weights, optimizer and checkpointer.
        """
        trained = Trained(
            self.cfg, model, checkpointer, device=self.device, dtype=self.dtype, seed=getattr(self, "seed", 0)
        )
        self.trained[model] = trained
        if self.rank == 0:
            count = sum(p.numel() for p in trained.parameters)
            total = sum(p.numel() for p in trained.model.parameters())
            log.info("Training %s of %s parameters of %s", f"{count:,}", f"{total:,}", model)
        return trained

    def frozen_model(self, model: str, checkpointer: str) -> nn.Module:
        """A model that only answers, by the config keys of its component and its checkpointer.

        Args:
            model: config key of its component.
            checkpointer: config key of its checkpointer.

        Returns:
            The model, in evaluation mode, without gradients.

        Raises:
            ValueError: if the checkpointer is missing.
        """
        if self.cfg.get(checkpointer) is None:
            raise ValueError(
                f"{checkpointer} is not set; it says where the weights of the frozen model are. Copy `checkpointer`, with "
                "the weights that training starts from"
            )
        state = config.instantiate(self.cfg[checkpointer]).load_checkpoint()
        built = build_model(self.cfg, self.cfg[model], state, device=self.device, dtype=self.dtype)
        return built.requires_grad_(False).eval()

    @contextmanager
    def before_training(self) -> Iterator[nn.Module]:
        """The policy as it was before training, without gradients: ``reference``, or the model without its adapter."""
        with torch.no_grad():
            if self.reference is not None:
                yield self.reference
            else:
                with disable_adapter(self.policy.model):
                    yield self.policy.model

    def means(self, values: dict[str, torch.Tensor]) -> dict[str, float]:
        """Means over all ranks.

        Args:
            values: this rank's scalars, by name.

        Returns:
            The means, by name.
        """
        means = all_reduce_sum(torch.stack(list(values.values()))) / self.world_size
        return dict(zip(values, means.tolist(), strict=True))

    def plan(
        self, steps_per_epoch: int, total_epochs: int, updates_per_step: int = 1, total_steps: int | None = None
    ) -> None:
        """Says how long the run is, and makes what depends on that: schedules of learning rates and checkpoints.

        Args:
            steps_per_epoch: recipe steps in an epoch.
            total_epochs: epochs of the run.
            updates_per_step: optimizer steps in a recipe step.
            total_steps: recipe steps of the run, where it ends before its last epoch.
        """
        self.steps_per_epoch, self.total_epochs = steps_per_epoch, total_epochs
        self.total_steps = total_steps or steps_per_epoch * total_epochs
        for trained in self.trained.values():
            trained.schedule(self.total_steps * updates_per_step)
        self.save_schedule = CheckpointSchedule(
            self.cfg.get("save_every_n_steps"), self.cfg.get("save_every_n_epochs", 1), total_epochs
        )

    def resume(self) -> None:
        """Puts everything where the saved run left it, if the config asks for that."""
        if not self.cfg.get("resume_from_checkpoint"):
            return
        state = [trained.resume() for trained in self.trained.values()][0]
        self.epochs_run = state[EPOCHS_KEY]
        self.global_step = state.get(STEPS_KEY, self.epochs_run * self.steps_per_epoch)
        if state.get(DATALOADER_KEY) is not None:
            load_loader_state(self.data, state[DATALOADER_KEY])
        if state.get(RNG_KEY) is not None:
            set_rng_state(state[RNG_KEY])
        place = (self.global_step, self.total_steps, self.epochs_run + 1, self.total_epochs)
        log.info("Resumed at step %d of %d, epoch %d of %d", *place)

    def after_step(self, epoch: int) -> None:
        """Saves where a step of this epoch is one to save at; after a SIGTERM saves and ends the process with 0.

        Args:
            epoch: number of the present epoch, from 0.

        Raises:
            SystemExit: after a SIGTERM.
        """
        if self.stop.requested():
            self.save_checkpoint(dir_prefix="step")
            self.cleanup()
            raise SystemExit(0)
        at_end = self.global_step == self.steps_per_epoch * (epoch + 1) and self.save_schedule.after_epoch(epoch)
        if self.save_schedule.after_step(self.global_step) and not at_end:
            self.save_checkpoint(dir_prefix="step")

    def after_epoch(self, epoch: int) -> None:
        """Counts an epoch, and saves where it is one to save at.

        Args:
            epoch: number of the epoch that has ended, from 0.
        """
        self.epochs_run = epoch + 1
        if self.save_schedule.after_epoch(epoch):
            self.save_checkpoint()

    def save_checkpoint(self, dir_prefix: str = "epoch", **_: Any) -> None:
        """Writes every trained model, and, if the run goes on, what a resume needs.

        Args:
            dir_prefix: ``epoch`` or ``step``: what the folder is named after; with ``step`` the place in the data is
                saved too.
        """
        for trained in self.trained.values():
            progress = TrainingProgress(
                seed=self.seed,
                epochs_run=self.epochs_run,
                total_epochs=self.total_epochs,
                max_steps_per_epoch=self.cfg.get("max_steps_per_epoch") or -1,
                steps_run=self.global_step,
                total_training_steps=self.total_steps,
                dataloader_state_dict=loader_state(self.data) if dir_prefix == "step" else None,
                lr_scheduler_state_dict=None if trained.lr_scheduler is None else trained.lr_scheduler.state_dict(),
            )
            trained.checkpoints.save_checkpoint(
                model=trained.model,
                optimizer=trained.optimizer,
                training_progress=progress,
                epoch=max(self.epochs_run - 1, 0),
                adapter_config=trained.adapter_config,
                adapter_only=bool(trained.adapter_config and self.cfg.get("save_adapter_weights_only", False)),
                single_device=self.world_size == 1,
                dir_prefix=dir_prefix,
            )

    def log_metrics(self, metrics: dict[str, float], started: float | None = None) -> None:
        """Logs every ``log_every_n_steps`` steps, on rank 0.

        Args:
            metrics: values by name.
            started: when the step began, by ``time.perf_counter``.
        """
        every = self.cfg.get("log_every_n_steps", 1)
        if self.metric_logger is None or not every or self.global_step % every:
            return
        first = next(iter(self.trained.values()))
        metrics = {**metrics, "lr": get_lr(first.optimizer)}
        if first.loss_check.action == "skip":
            metrics["skipped_steps"] = first.loss_check.skipped
        if started is not None:
            metrics["seconds_per_step"] = time.perf_counter() - started
        if self.cfg.get("log_peak_memory_stats") and self.device.type != "cpu":
            metrics.update(get_memory_stats(device=self.device))
        self.metric_logger.log_dict(metrics, step=self.global_step)

    def cleanup(self, **_: Any) -> None:
        """Closes the logger and the process group."""
        if self.metric_logger is not None:
            self.metric_logger.close()
        for trained in self.trained.values():
            trained.checkpoints.wait()
        if dist.is_initialized():
            dist.destroy_process_group()


def _samples(rows: list[Any], collate_fn: Callable[[list[Any]], Any]) -> dict[str, Any]:
    return {"samples": collate_fn(rows)}


def run_recipe(recipe_class: type[Any], cfg: DictConfig, keys: Sequence[str] | set[str]) -> None:
    """Runs a recipe from its config to its end.

    Args:
        recipe_class: makes the recipe of the config.
        cfg: the run's settings.
        keys: the config keys that the recipe reads.
    """
    config.check_keys(cfg, keys)
    with fault_reports(cfg):
        keep_freed_memory(cfg.device)
        if is_distributed():
            init_distributed(
                backend=get_distributed_backend(cfg.device, cfg.get("fsdp_cpu_offload", False)),
                timeout=timedelta(seconds=cfg.get("distributed_timeout_seconds", 1800)),
            )
        config.log_config(recipe_name=recipe_class.__name__, cfg=cfg)
        recipe = recipe_class(cfg)
        recipe.setup()
        recipe.train()
        recipe.cleanup()
