"""What recipes share besides their loops: settings, models, checkpoints, logs, scores of tool calls."""

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
from torchtune.modules.peft import disable_adapter
from torchtune.recipe_interfaces import FTRecipeInterface
from torchtune.training import tool_eval
from torchtune.training._cpu_products import fast_fp32_products
from torchtune.training._data import build_dataloader, load_loader_state, loader_state
from torchtune.training._distributed import (
    all_reduce_sum,
    get_distributed_backend,
    get_world_size_and_rank,
    init_distributed,
)
from torchtune.training._faults import StopSignal, check_recipe, fault_reports
from torchtune.training._parallelism import Parallelism
from torchtune.training._profiler import DummyProfiler
from torchtune.training._step import CheckpointSchedule
from torchtune.training._trained import Trained, build_model, check_step_settings
from torchtune.training.checkpointing._checkpoint_client import TrainingProgress, with_resume_decided
from torchtune.training.checkpointing._utils import (
    DATALOADER_KEY,
    EPOCHS_KEY,
    RNG_KEY,
    SEED_KEY,
    STEPS_KEY,
    TOTAL_EPOCHS_KEY,
)
from torchtune.training.memory import get_memory_stats, keep_freed_memory
from torchtune.training.precision import get_dtype
from torchtune.training.seed import set_rng_state, set_seed
from torchtune.utils import get_device, get_logger

log = get_logger("INFO")


def with_present_keys(cfg: DictConfig) -> DictConfig:
    """A config with keys of older recipes of torchtune as one with those that took their place.

    ``fsdp.cpu_offload`` is ``fsdp_cpu_offload``; ``memory_efficient_fsdp_wrap: true`` shards embeddings and output by
    themselves, which is ``custom_sharded_layers: [tok_embeddings, output]``.

    Raises:
        ValueError: if an old and a new key contradict each other.
    """
    given = {
        "fsdp_cpu_offload": ("fsdp.cpu_offload", (cfg.get("fsdp") or {}).get("cpu_offload")),
        "custom_sharded_layers": (
            "memory_efficient_fsdp_wrap",
            ["tok_embeddings", "output"] if cfg.get("memory_efficient_fsdp_wrap") else None,
        ),
    }
    for new, (old, value) in given.items():
        if value is None:
            continue
        if cfg.get(new) not in (None, value):
            raise ValueError(f"{old} asks for {new}: {value}, but {new} is {cfg[new]}; leave one of them out")
        cfg = cfg.copy()
        OmegaConf.update(cfg, new, value, force_add=True)
    return cfg


class Recipe(FTRecipeInterface):
    """What all recipes that train share. A recipe adds ``setup`` and its loop, ``train``.

    Args:
        cfg: the run's settings.

    Raises:
        ValueError: if settings contradict each other; the message names the keys.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg = with_resume_decided(with_present_keys(cfg))
        log.setLevel(cfg.get("log_level", "INFO"))
        self.device = get_device(cfg.device)
        self.dtype = get_dtype(cfg.dtype, device=self.device)
        fast_fp32_products(self.device, self.dtype)
        self.world_size, self.rank = get_world_size_and_rank()
        self.parallel = Parallelism(cfg, self.device)
        self.accumulation_steps = cfg.get("gradient_accumulation_steps", 1)
        self.epochs_run = self.global_step = 0
        self.steps_per_epoch = self.total_epochs = 1
        self.data: Any = None
        self.metric_logger: Any = None
        self.stop = StopSignal(self.device)
        self.trained: dict[str, Trained] = {}
        self.profiler: Any = DummyProfiler()
        self.tool_evaluator: tool_eval.ToolCallEvaluator | None = None
        self.tool_scores: dict[str, tool_eval.ToolEvalResult] = {}
        check_step_settings(cfg)

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

    def train_model(self, model: str, checkpointer: str, loss_fn: nn.Module | None = None) -> Trained:
        """A model to train, with weights, optimizer and checkpoints, by the config keys of model and checkpointer.

        Args:
            model: config key of its component.
            checkpointer: config key of its checkpointer.
            loss_fn: see :func:`build_model`.
        """
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)  # of a transform of images and text
        chat_format = tokenizer.format if getattr(tokenizer, "format_options", None) else None
        trained = Trained(
            self.cfg, model, checkpointer, device=self.device, dtype=self.dtype, seed=getattr(self, "seed", 0),
            parallel=self.parallel, loss_fn=loss_fn, chat_format=chat_format,
        )  # fmt: skip
        self.trained[model] = trained
        if self.rank == 0:
            count = sum(p.numel() for p in trained.parameters)
            total = sum(p.numel() for p in trained.model.parameters())
            log.info("Training %s of %s parameters of %s", f"{count:,}", f"{total:,}", model)
        return trained

    def frozen_model(self, model: str, checkpointer: str) -> nn.Module:
        """A model that only answers, in evaluation mode, without gradients. See :meth:`Recipe.train_model`.

        Raises:
            ValueError: if the checkpointer is missing.
        """
        if self.cfg.get(checkpointer) is None:
            raise ValueError(
                f"{checkpointer} is not set; it says where the weights of the frozen model are. Copy `checkpointer`, with "
                "the weights that training starts from"
                + (", or those of the teacher" if model == "teacher_model" else "")
            )
        state = config.instantiate(self.cfg[checkpointer]).load_checkpoint()
        return build_model(
            self.cfg, self.cfg[model], state, device=self.device, dtype=self.dtype, parallel=self.parallel, frozen=True
        )

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
        every = self.cfg.get("save_every_n_steps"), self.cfg.get("save_every_n_epochs", 1)
        self.save_schedule = CheckpointSchedule(*every, total_epochs)

    def resume(self) -> None:
        """Puts everything where the saved run left it, if the config asks for that."""
        if not self.cfg.get("resume_from_checkpoint"):
            return
        state = [trained.resume() for trained in self.trained.values()][0]
        self.epochs_run = state[EPOCHS_KEY]
        self.global_step = state.get(STEPS_KEY, self.epochs_run * self.steps_per_epoch)
        for key, now in ((SEED_KEY, self.seed), (TOTAL_EPOCHS_KEY, self.total_epochs)):
            if state.get(key, now) != now:
                log.warning(
                    "The run that is resumed had %s %s, this config has %s; going on with the config's",
                    key, state[key], now,
                )  # fmt: skip
        if state.get(DATALOADER_KEY) is not None:
            load_loader_state(self.data, state[DATALOADER_KEY])
        if state.get(RNG_KEY) is not None:
            set_rng_state(state[RNG_KEY])
        place = (self.global_step, self.total_steps, self.epochs_run + 1, self.total_epochs)
        log.info("Resumed at step %d of %d, epoch %d of %d", *place)

    def due(self, every: int | None) -> bool:
        """Whether the step just done is one of every so many.

        Args:
            every: so many; None or 0 for never.
        """
        return bool(every) and self.global_step % int(every or 1) == 0

    def after_step(self, epoch: int) -> None:
        """Saves where a step of this epoch is one to save at; after a SIGTERM saves and ends the process with 0.

        Args:
            epoch: number of the present epoch, from 0.

        Raises:
            SystemExit: after a SIGTERM.
        """
        stopping = self.stop.requested()
        if self.global_step == self.steps_per_epoch * (epoch + 1) and self.save_schedule.after_epoch(epoch):
            return  # the epoch's own checkpoint comes next
        if stopping or self.save_schedule.after_step(self.global_step):
            self.save_checkpoint(dir_prefix="step")
        if stopping:
            self._end()

    def after_epoch(self, epoch: int) -> None:
        """Counts an epoch, and saves where it is one to save at; ends the process after a SIGTERM.

        Args:
            epoch: number of the epoch that has ended, from 0.

        Raises:
            SystemExit: after a SIGTERM.
        """
        self.epochs_run = epoch + 1
        if self.save_schedule.after_epoch(epoch):
            self.save_checkpoint()
        if self.stop.received:
            self._end()

    def _end(self) -> None:
        self.cleanup()
        raise SystemExit(0)

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
        if self.metric_logger is None or not self.due(self.cfg.get("log_every_n_steps", 1)):
            return
        first = next(iter(self.trained.values()))
        metrics = {**metrics, "lr": first.lr}
        if first.loss_check.action == "skip":
            metrics["skipped_steps"] = first.loss_check.skipped
        if started is not None:
            metrics["seconds_per_step"] = time.perf_counter() - started
        if self.cfg.get("log_peak_memory_stats") and self.device.type != "cpu":
            metrics.update(get_memory_stats(device=self.device))
        self.metric_logger.log_dict(metrics, step=self.global_step)

    def prepare_tool_calls(self) -> None:
        """Makes what scores the model's calls, if the config has ``eval_tool_calls``."""
        section = self.cfg.get("eval_tool_calls")
        if section is not None:
            given = {"max_new_tokens": 256, "batch_size": 16, "show_samples": 2}
            given = {key: section.get(key, default) for key, default in given.items()}
            cases = config.instantiate(section.dataset)
            self.tool_evaluator = tool_eval.ToolCallEvaluator(self.tokenizer, cases, **given)

    def evaluate_tool_calls(self, label: str, model: Any) -> None:
        """Scores the calls of a model on ``eval_tool_calls.dataset``, and prints a table with a column for each time.

        Args:
            label: the time, such as ``before``.
            model: the model.
        """
        if self.tool_evaluator is None:
            return
        self.tool_scores[label] = result = self.tool_evaluator(model)
        if self.metric_logger is None:
            return
        self.metric_logger.log_dict(result.scores.metrics(), step=self.global_step)
        if label == "before":
            log.info("Tool calls before training, in %.0f s: %s", result.seconds, result.scores.metrics(prefix=""))
            return
        from rich.console import Console

        title = f"Tool calls, {len(result.cases)} held-out turns"
        Console().print(tool_eval.report(self.tool_scores, title=title))

    def cleanup(self, **_: Any) -> None:
        if self.metric_logger is not None:
            self.metric_logger.close()
        for trained in self.trained.values():
            trained.checkpoints.wait()
        if dist.is_initialized():
            dist.destroy_process_group()


class PolicyRecipe(Recipe):
    """What the recipes on preferences and rewards share besides.

    Args:
        cfg: the run's settings.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        self.policy: Trained
        self.reference: nn.Module | None = None

    def load_data(self, collate_fn: Callable[[list[Any]], Any] = list, *, drop_last: bool = True) -> None:
        """Makes ``dataset`` and its loader, ``data``, of ``{"samples": ..., "rows": ...}``. See :func:`build_dataloader`.

        Args:
            collate_fn: makes ``samples`` of a list of rows.
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
        """The means over all ranks, by name.

        Args:
            values: this rank's scalars, by name.
        """
        means = all_reduce_sum(torch.stack(list(values.values()))) / self.world_size
        return dict(zip(values, means.tolist(), strict=True))


def _samples(rows: list[Any], collate_fn: Callable[[list[Any]], Any]) -> dict[str, Any]:
    return {"samples": collate_fn(rows)}


def run_recipe(
    recipe_class: type[Recipe], cfg: DictConfig, keys: Sequence[str] | set[str], required: Sequence[str] = ()
) -> None:
    """Runs a recipe from its config to its end.

    Args:
        recipe_class: makes the recipe of the config.
        cfg: the run's settings.
        keys: the config keys that the recipe reads.
        required: those of them that it can't do without; then a config of another recipe is refused by what it lacks.
    """
    unknown = config.check_keys(cfg, keys)
    if required:
        check_recipe(cfg, unknown, required)
    config.validate(cfg)  # a wrong name at the end of the config is told before weights and data are read
    cfg = with_present_keys(cfg)
    with fault_reports(cfg):
        keep_freed_memory(cfg.device)
        init_distributed(
            backend=get_distributed_backend(cfg.device, cfg.get("fsdp_cpu_offload", False)),
            timeout=timedelta(seconds=cfg.get("distributed_timeout_seconds", 1800)),
        )
        config.log_config(recipe_name=recipe_class.__name__, cfg=cfg)
        recipe = recipe_class(cfg)
        recipe.setup()
        recipe.train()
        recipe.cleanup()
