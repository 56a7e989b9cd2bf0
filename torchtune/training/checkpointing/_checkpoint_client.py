"""What a recipe uses to load and save: it gathers the state, whole or by rank, and hands it to a checkpointer."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from torchtune.training._distributed import first_rank_writes, get_world_size_and_rank, own_part, per_rank
from torchtune.training._sharding import gather_cpu_state_dict, get_full_optimizer_state_dict
from torchtune.training.checkpointing._checkpointer import DistributedCheckpointer, FullModelHFCheckpointer
from torchtune.training.checkpointing._files import FileCheckpointer
from torchtune.training.checkpointing._folders import DCP_METADATA, can_resume, resumable
from torchtune.training.checkpointing._utils import (
    ADAPTER_CONFIG,
    ADAPTER_KEY,
    DATALOADER_KEY,
    MODEL_KEY,
    OPT_KEY,
    RECIPE_STATE_FNAME,
    RNG_KEY,
    VAL_DATALOADER_KEY,
)
from torchtune.training.memory import OptimizerInBackwardWrapper, optimizers_of
from torchtune.training.seed import get_rng_state

if TYPE_CHECKING:
    from torchtune.data.formats import ChatFormat

_log = logging.getLogger("torchtune")
AnyOptimizer = Optimizer | OptimizerInBackwardWrapper


@dataclass
class TrainingProgress:
    """Where a run stands; what a resume needs besides model and optimizer.

    Args:
        seed: the run's seed.
        epochs_run: epochs done.
        total_epochs: epochs asked for.
        max_steps_per_epoch: limit of optimizer steps per epoch; -1 or None for none.
        steps_run: optimizer steps done in all.
        total_training_steps: optimizer steps that the run will have.
        dataloader_state_dict: position in the training data.
        val_dataloader_state_dict: position in the validation data.
        lr_scheduler_state_dict: the learning rate schedule's state.
        rng_state: from :func:`torchtune.training.get_rng_state`; taken at the save if it is None.
    """

    seed: int
    epochs_run: int
    total_epochs: int
    max_steps_per_epoch: int
    steps_run: int | None = None
    total_training_steps: int | None = None
    dataloader_state_dict: dict[str, Any] | None = None
    val_dataloader_state_dict: dict[str, Any] | None = None
    lr_scheduler_state_dict: dict[str, Any] | None = None
    rng_state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, object]:
        """The fields under the names that checkpoints use; those that are None are left out."""
        values = {name.removesuffix("_state_dict"): value for name, value in vars(self).items()}
        return {key: value for key, value in values.items() if value is not None}

    @property
    def finished(self) -> bool:
        """Whether the run is over, by steps where they are known, else by epochs."""
        if self.steps_run is not None and self.total_training_steps:
            return self.steps_run >= self.total_training_steps
        return self.epochs_run >= self.total_epochs


def with_resume_decided(cfg: DictConfig) -> DictConfig:
    """A config whose ``resume_from_checkpoint`` is true or false: ``auto`` is true where there is anything to resume from."""
    asked = cfg.get("resume_from_checkpoint")
    if asked is None or isinstance(asked, bool):
        return cfg
    if asked != "auto":
        raise ValueError(f"resume_from_checkpoint is {asked!r}; expected true, false or auto")
    settings = cfg.checkpointer
    output_dir = settings.get("output_dir") or cfg.get("output_dir")
    cfg = cfg.copy()
    there = output_dir is not None and can_resume(Path(output_dir), settings.get("recipe_checkpoint"))
    cfg.resume_from_checkpoint = there
    _log.info("resume_from_checkpoint: auto is %s", str(cfg.resume_from_checkpoint).lower())
    return cfg


class CheckpointClient:
    """Loads and saves a run's checkpoints, on one device or many.

    Args:
        cfg: the recipe's config.
        checkpointer: used in place of the one that ``cfg.checkpointer`` says.
        chat_format: what the model is trained in; the chat template of the folders that are saved follows it.
    """

    def __init__(self, cfg: DictConfig, checkpointer: Any | None = None, chat_format: ChatFormat | None = None) -> None:
        self._cfg = cfg
        self._chat_format = chat_format
        self._checkpointer = checkpointer
        self._dcp: DistributedCheckpointer | None = None
        self._resume = bool(cfg.get("resume_from_checkpoint", False))
        self._async = bool(cfg.get("enable_async_checkpointing", False))
        world_size, self._rank = get_world_size_and_rank()
        self._is_rank_zero = self._rank == 0
        self._distributed = world_size > 1

    @property
    def checkpointer(self) -> Any:
        """The file checkpointer, made when it is first needed."""
        if self._checkpointer is None:
            from torchtune import config

            resume = self._resume and not self.resumes_from_distributed
            self._checkpointer = config.instantiate(self._cfg.checkpointer, should_load_recipe_state=resume)
            if isinstance(self._checkpointer, FileCheckpointer):
                self._checkpointer.chat_format = self._chat_format
        return self._checkpointer

    @property
    def distributed_checkpointer(self) -> DistributedCheckpointer:
        """The checkpointer for saves by rank, made when it is first needed."""
        if self._dcp is None:
            settings = self._cfg.checkpointer
            keep = settings.get("keep_last_n_checkpoints")
            self._dcp = DistributedCheckpointer(settings.checkpoint_dir, self._output_dir, keep_last_n_checkpoints=keep)
        return self._dcp

    @property
    def _output_dir(self) -> str:
        output_dir = self._cfg.checkpointer.get("output_dir") or self._cfg.get("output_dir")
        if output_dir is None:
            raise ValueError("checkpointer.output_dir is not set; it is where checkpoints are written")
        return output_dir

    @property
    def resumes_from_distributed(self) -> bool:
        """Whether the newest state of the run was saved by rank, to be loaded by :meth:`load_distributed_checkpoint`."""
        name = self._cfg.checkpointer.get("recipe_checkpoint") or RECIPE_STATE_FNAME
        if not self._resume or not self._cfg.checkpointer.get("output_dir") or "/" in name:
            return False
        folder = Path(self._output_dir)
        newest = resumable(folder, name, DCP_METADATA)[-1:]
        return bool(newest) and newest == resumable(folder, DCP_METADATA)[-1:]

    def load_base_checkpoint(self) -> dict[str, Any]:
        """The model to start from, or, when resuming, all that was saved, with this rank's positions and RNG state."""
        return _for_ranks(self.checkpointer.load_checkpoint(), own_part)

    def load_distributed_checkpoint(
        self,
        model: nn.Module,
        optimizer: AnyOptimizer,
        adapter_config: dict[str, Any] | None = None,
        dataloader: Any | None = None,
        single_device: bool = False,
    ) -> dict[str, Any]:
        """The counters, positions and RNG state of the newest checkpoint by rank; model and optimizer get theirs.

        See :meth:`CheckpointClient.save_checkpoint`.

        Args:
            adapter_config: given for a model with an adapter: only the adapter is loaded.
            dataloader: a stateful data loader to put in its position.
        """
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        state = self._rank_state(model, optimizer, adapter_only=adapter_config is not None)
        state["run"] = b""
        loaded = self.distributed_checkpointer.load_checkpoint(state, adapter_only=adapter_config is not None)
        model.load_state_dict(loaded[MODEL_KEY], strict=False)
        options = StateDictOptions(flatten_optimizer_state_dict=True, strict=False)
        for opt in optimizers_of(optimizer).values():
            set_optimizer_state_dict(model, opt, loaded[OPT_KEY], options=options)
        run = _for_ranks(torch.load(io.BytesIO(loaded["run"]), weights_only=True), own_part)
        if dataloader is not None and DATALOADER_KEY in run:
            dataloader.load_state_dict(run[DATALOADER_KEY])
        return run

    def save_checkpoint(
        self,
        model: nn.Module,
        optimizer: AnyOptimizer,
        training_progress: TrainingProgress,
        epoch: int,
        adapter_config: dict[str, Any] | None = None,
        adapter_only: bool = False,
        single_device: bool = False,
        *,
        full_tensors: bool = True,
        dir_prefix: str = "epoch",
    ) -> None:
        """Save the run; every rank calls this.

        A checkpoint of a run that isn't over also holds what a resume needs. With ``enable_async_checkpointing`` such a
        checkpoint is saved by rank in the background.

        Args:
            model: the model, sharded or not.
            optimizer: its optimizer.
            training_progress: where the run stands.
            epoch: number of the epoch, from 0.
            adapter_config: ``r``, ``lora_alpha``, ``target_modules`` for a model with an adapter; its weights are then
                saved apart, and merged into the model's.
            adapter_only: don't save the merged model.
            single_device: there is one process.
            full_tensors: False saves by rank, without gathering.
            dir_prefix: ``epoch`` names the folder by the epoch, ``step`` by ``training_progress.steps_run``.

        Raises:
            OSError: if the disk is full or can't be written; earlier checkpoints stay as they are.
        """
        start = time.perf_counter()
        if training_progress.rng_state is None:
            training_progress.rng_state = get_rng_state()
        intermediate = not training_progress.finished
        step = training_progress.steps_run if dir_prefix == "step" else None
        progress = _for_ranks(training_progress.state_dict(), per_rank)
        if intermediate and (self._async or not full_tensors):
            only = adapter_config is not None
            state = self._rank_state(model, optimizer, adapter_only=only)
            # One value: DCP would need to know the names and kinds of each before it can load them.
            torch.save(progress, packed := io.BytesIO())
            state["run"] = packed.getvalue()
            self.distributed_checkpointer.save_checkpoint(
                state, epoch, save_async=self._async, adapter_only=only, step=step, dir_prefix=dir_prefix
            )
        else:
            self.wait()
            state = self._full_state(model, optimizer, intermediate, adapter_config, adapter_only)
            with first_rank_writes() as writes:
                if writes:
                    self.checkpointer.save_checkpoint(
                        {**state, **(progress if intermediate else {})},
                        epoch=epoch,
                        intermediate_checkpoint=intermediate,
                        adapter_only=adapter_only,
                        step=step,
                        dir_prefix=dir_prefix,
                    )
        if self._is_rank_zero:
            _log.info("Saving the checkpoint took %.2f s", time.perf_counter() - start)

    def wait(self) -> None:
        """Wait until a save in the background is complete."""
        if self._dcp is not None:
            self._dcp.wait()

    def _full_state(
        self,
        model: nn.Module,
        optimizer: AnyOptimizer,
        with_optimizer: bool,
        adapter_config: dict[str, Any] | None,
        adapter_only: bool,
    ) -> dict[str, Any]:
        """Full tensors on rank 0; a collective operation."""
        device = self._gather_device
        state: dict[str, Any] = {}
        weights = gather_cpu_state_dict(model, self._is_rank_zero, device, adapter_weights_only=adapter_only)
        if adapter_config is None:
            state[MODEL_KEY] = weights
        elif self._is_rank_zero:
            from torchtune.modules.peft import get_adapter_state_dict, get_merged_lora_ckpt

            state[ADAPTER_KEY] = get_adapter_state_dict(weights, device="cpu")
            state[ADAPTER_CONFIG] = adapter_config
            if not adapter_only:
                merges_as_it_writes = isinstance(self.checkpointer, FullModelHFCheckpointer)
                rank, alpha = adapter_config["r"], adapter_config["lora_alpha"]
                # A copy of the dictionary, for merging drops the adapter's keys; base weights are replaced, not written to.
                merged = weights if merges_as_it_writes else get_merged_lora_ckpt(dict(weights), rank, alpha)
                state[MODEL_KEY] = merged
        if with_optimizer:
            collect = partial(get_full_optimizer_state_dict, model, is_rank_zero=self._is_rank_zero, device=device)
            states = {name: collect(opt) for name, opt in optimizers_of(optimizer).items()}
            state[OPT_KEY] = states if isinstance(optimizer, OptimizerInBackwardWrapper) else states[""]
        return state

    @property
    def _gather_device(self) -> torch.device | None:
        """Where collective operations run: sharded tensors may lie on the CPU while the group is of GPUs."""
        if not self._distributed or not torch.cuda.is_available() or self._cfg.get("device") == "cpu":
            return None
        return torch.device("cuda", torch.cuda.current_device())

    def _rank_state(self, model: nn.Module, optimizer: AnyOptimizer, adapter_only: bool) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        weights = model.state_dict()
        if adapter_only:
            from torchtune.modules.peft import get_adapter_state_dict

            weights = get_adapter_state_dict(weights, device=None)
        options = StateDictOptions(flatten_optimizer_state_dict=True)
        merged: dict[str, Any] = {}
        for opt in optimizers_of(optimizer).values():
            merged.update(get_optimizer_state_dict(model, opt, options=options))
        return {MODEL_KEY: weights, OPT_KEY: merged}


def _for_ranks(state: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A state with what differs from rank to rank changed: gathered to be saved, or this rank's part after loading."""
    own = (DATALOADER_KEY, VAL_DATALOADER_KEY, RNG_KEY)
    return {key: change(value) if key in own else value for key, value in state.items()}
