"""Supervised fine-tuning: full, LoRA, DoRA or QLoRA, quantization-aware, distilled or with early exits, on any devices.

A method is a section of the config: a ``lora_*`` model has adapters, and then only these are trained; ``quantizer`` rounds
weights while training; ``teacher_model`` distills; ``early_exit_loss`` and ``layer_dropout`` train early layers too;
``datasets`` mixes several. The number of devices is torchrun's. The loop is :meth:`FinetuneRecipe.train`.

    tune run lora_finetune_single_device --config llama3_2/1B_lora_single_device
    tune run --nproc-per-node 2 full_finetune_distributed --config llama3_2/1B_full
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from torchtune import config, training, utils
from torchtune.config._utils import _get_component_from_path
from torchtune.data import check_template, padded_collate_packed
from torchtune.modules.loss import SFTLoss

CONFIG_KEYS = {
    "output_dir", "tokenizer", "model", "checkpointer", "resume_from_checkpoint", "save_adapter_weights_only",
    "check_data", "check_template", "dataset", "dataset_val", "collate_fn", "seed", "shuffle", "batch_size", "batch_size_val",
    "run_val_every_n_steps", "run_val_max_batches", "optimizer", "optimizer_in_bwd", "lr_scheduler", "loss", "epochs",
    "max_steps_per_epoch", "gradient_accumulation_steps", "clip_grad_norm", "save_every_n_steps",
    "save_every_n_epochs", "enable_async_checkpointing", "resize_token_embeddings", "device", "dtype", "compile",
    "enable_activation_checkpointing", "enable_activation_offloading", "activation_offloading_use_streams", "ac_mode",
    "ac_option", "custom_sharded_layers", "fsdp_cpu_offload", "fsdp_reshard_after_forward", "data_parallel_shard_dim",
    "data_parallel_replicate_dim", "fsdp.cpu_offload",
    "memory_efficient_fsdp_wrap", "tensor_parallel_dim", "tensor_parallel_plan", "context_parallel_dim",
    "context_parallel_rotate_method", "enable_fp8_training", "fp8_recipe_name", "low_cpu_ram",
    "cudnn_deterministic_mode", "on_nan_loss", "distributed_timeout_seconds",
    "metric_logger", "log_every_n_steps", "log_peak_memory_stats", "log_level",
    "quantizer", "fake_quant_after_n_steps", "teacher_model", "teacher_checkpointer", "kd_loss", "kd_ratio",
    "early_exit_loss.layers", "early_exit_loss.curriculum", "early_exit_loss.scale_fn", "early_exit_loss.scale",
    "layer_dropout.prob", "layer_dropout.layers", "layer_dropout.layers_scale", "layer_dropout.disable_on_eval",
    "datasets", "dataloader.shuffle", "dataloader.collate_fn", "dataloader.packed", "dataloader.num_workers",
    "dataloader.pin_memory", "dataloader.prefetch_factor", "dataloader.parallel_method",
    "profiler", "eval_tool_calls.dataset", "eval_tool_calls.every_n_steps", "eval_tool_calls.max_new_tokens",
    "eval_tool_calls.batch_size", "eval_tool_calls.show_samples",
}  # fmt: skip

REQUIRED = ("model", "tokenizer", "checkpointer", "optimizer", "loss", "epochs")

log = utils.get_logger("INFO")


class FinetuneRecipe(training.Recipe):
    """One fine-tuning run, as its config says.

    Args:
        cfg: the run's settings; the keys are :data:`CONFIG_KEYS`.

    Raises:
        ValueError: if settings contradict each other; the message names the keys.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(training.with_one_dataset(cfg))
        for key in ("teacher_model", "early_exit_loss", "quantizer"):
            if cfg.get(key) and self.parallel.copies > 1:
                raise ValueError(
                    f"{key} needs whole layers and sequences on each rank; remove it, or set tensor_parallel_dim (is "
                    f"{cfg.get('tensor_parallel_dim', 1)}) and context_parallel_dim (is "
                    f"{cfg.get('context_parallel_dim', 1)}) to 1"
                )

    def setup(self, **_: Any) -> None:
        """Builds everything the loop uses."""
        cfg = self.cfg
        self.begin()
        loss_fn = config.instantiate(cfg.loss)
        self.ignore_index = getattr(loss_fn, "ignore_index", -100)
        self.data = self._setup_data(
            "dataset", cfg.batch_size, shuffle=cfg.get("shuffle", True), number_rows=True, **cfg.get("dataloader", {})
        )
        if self.rank == 0:
            folder = cfg.checkpointer.get("checkpoint_dir", "")
            check_template(self.tokenizer, self.data.dataset, folder, cfg.get("check_template", "error"))
        self.data_val = None
        if "dataset_val" not in cfg and cfg.get("run_val_every_n_steps"):
            raise ValueError("run_val_every_n_steps is set, but there is no dataset_val; add one, or set it to null")
        if cfg.get("dataset_val") is not None:
            self.data_val = self._setup_data("dataset_val", cfg.get("batch_size_val") or cfg.batch_size)
        training.check_validation_ends(self.data_val, cfg.get("run_val_max_batches"))
        self.learner = self.train_model("model", "checkpointer", loss_fn)
        self.model: Any = self.learner.model
        self.loss_fn = self._setup_loss(loss_fn)
        self.plan(
            training.steps_per_epoch(self.data, self.accumulation_steps, cfg.get("max_steps_per_epoch")), cfg.epochs
        )
        self.objective = training.build_objective(
            cfg, self.model, self.loss_fn, total_steps=self.total_steps, seed=self.seed,
            load_teacher=lambda: self.frozen_model("teacher_model", "teacher_checkpointer"),
        )  # fmt: skip
        self.prepare_tool_calls()
        self.resume()

    def train(self, **_: Any) -> None:
        """The loop: epochs of optimizer steps, each over ``gradient_accumulation_steps`` micro-batches."""
        self.score_calls("before" if self.global_step == 0 else f"step {self.global_step}")
        bar = training.progress_bar(self.total_steps, initial=self.global_step, desc="train")
        self.profiler.start()
        for epoch in range(self.epochs_run, self.total_epochs):
            training.set_epoch(self.data, epoch)
            for micro_batches in self._steps(epoch):
                started = time.perf_counter()
                step, grad_norm = self.train_step(micro_batches)
                self.global_step += 1
                bar.update()
                bar.set_description(f"epoch {epoch + 1}/{self.total_epochs} | loss {step.loss:.4f}", refresh=False)
                self.log_step(step, grad_norm, time.perf_counter() - started)
                self.profiler.step()
                if self.data_val is not None and self.due(self.cfg.get("run_val_every_n_steps")):
                    self.validate()
                if self.tool_evaluator is not None and self.due(self.cfg.eval_tool_calls.get("every_n_steps")):
                    self.score_calls(f"step {self.global_step}")
                self.after_step(epoch)
            self.after_epoch(epoch)
        self.profiler.stop()
        bar.close()
        if self.data_val is not None:
            self.validate()
        self.score_calls("after")

    def train_step(self, micro_batches: list[dict[str, Any]]) -> tuple[training.StepLoss, float | None]:
        """One optimizer step.

        Args:
            micro_batches: batches on the CPU, ``tokens`` and ``labels`` of each ``[b, s]``.

        Returns:
            The loss over all ranks with its number of tokens, and the norm of the gradients (None if not measured).
        """
        self.objective.at_step(self.global_step)
        if self.cfg.get("fake_quant_after_n_steps") is not None:
            training.set_fake_quant(self.model, self.global_step >= self.cfg.fake_quant_after_n_steps)
        for batch in micro_batches:
            with self.parallel.loss_context():
                self.learner.backward(*self.loss(batch), batch.get("rows", ()))
        return self.learner.step(self.global_step + 1)

    def loss(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss per trained token of a batch, and the number of these tokens."""
        batch = {key: value for key, value in batch.items() if key != "rows"}
        utils.batch_to_device(batch, self.device)
        batch = self.parallel.own_part(batch, self.ignore_index)
        labels = batch.pop("labels")  # of each position the next token: datasets give them so
        weights = batch.pop("loss_weights", None)
        num_tokens = training.count_loss_tokens(labels, self.ignore_index, weights)
        with self.learner.activations:
            outputs = self.model(**batch)
        return self.objective(outputs, labels, batch, weights), num_tokens

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss per token over the validation data."""
        self.model.eval()
        losses = training.LossAccumulator(self.device)
        for batch in islice(training.read_batches(self.data_val), self.cfg.get("run_val_max_batches")):
            with self.parallel.loss_context():
                losses.add(*self.loss(batch))
        self.model.train()
        loss = losses.finish().loss.item()
        if self.rank == 0:
            log.info("step %d | validation loss %.4f", self.global_step, loss)
            self.metric_logger.log_dict({"val_loss": loss}, step=self.global_step)
        return loss

    def score_calls(self, label: str) -> None:
        """Scores the model's calls on ``eval_tool_calls.dataset``; answers are generated with whole layers and sequences."""
        model = self.model
        if self.tool_evaluator is not None and self.parallel.copies > 1:
            build = partial(config.instantiate, self.cfg.model)
            model = training.with_whole_layers(model, build, device=self.device, dtype=self.dtype)
        self.evaluate_tool_calls(label, model)

    def log_step(self, step: training.StepLoss, grad_norm: float | None, seconds: float) -> None:
        """Logs every ``log_every_n_steps`` steps, on rank 0."""
        speed = int(step.num_tokens) / (seconds * self.world_size)
        metrics = {"loss": step.loss.item(), "tokens_per_second_per_gpu": speed, **self.objective.end_step()}
        self.log_metrics(metrics if grad_norm is None else {**metrics, "grad_norm": grad_norm})

    def _steps(self, epoch: int) -> Iterator[list[dict[str, Any]]]:
        """The micro-batches of each optimizer step that is left of an epoch."""
        batches = training.read_batches(self.data)
        for _ in range(self.steps_per_epoch * (epoch + 1) - self.global_step):
            micro_batches = list(islice(batches, self.accumulation_steps))
            if not micro_batches:
                return
            yield micro_batches

    def _setup_loss(self, loss_fn: nn.Module) -> nn.Module:
        if isinstance(loss_fn, SFTLoss):
            loss_fn.set_model_output(self.model)
        elif hasattr(loss_fn, "num_output_chunks"):
            self.model.set_num_output_chunks(loss_fn.num_output_chunks)
        if self.cfg.get("compile"):
            loss_fn = training.compile_loss(loss_fn, verbose=self.rank == 0)
        return loss_fn

    def _setup_data(self, name: str, batch_size: int, shuffle: bool = False, **options: Any) -> Any:
        """A loader of batches. No row is left out; ranks that lack one at the end get a row without labels."""
        dataset, packed = training.build_dataset(self.cfg, name, self.tokenizer)
        collate = _get_component_from_path(self.cfg.get("collate_fn", "torchtune.data.padded_collate_sft"))
        pad_id = getattr(self.tokenizer, "pad_id", 0)
        return training.build_dataloader(
            dataset,
            batch_size=batch_size,
            collate_fn=padded_collate_packed
            if packed
            else partial(collate, padding_idx=pad_id, ignore_idx=self.ignore_index),
            shuffle=shuffle,
            seed=self.seed,
            num_replicas=self.parallel.data_ranks,
            rank=self.parallel.data_rank,
            drop_last=False,
            **options,
        )


@config.parse
def recipe_main(cfg: DictConfig) -> None:
    """Runs the recipe with a parsed config."""
    training.run_recipe(FinetuneRecipe, cfg, CONFIG_KEYS, REQUIRED)


if __name__ == "__main__":
    sys.exit(recipe_main())
