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
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from torchtune import config, modules, training, utils
from torchtune.config._utils import _get_component_from_path
from torchtune.data import check_template, padded_collate_packed
from torchtune.modules.loss import SFTLoss
from torchtune.modules.peft import get_adapter_params, set_trainable_params
from torchtune.recipe_interfaces import FTRecipeInterface
from torchtune.training import tool_eval

CONFIG_KEYS = {
    "output_dir", "tokenizer", "model", "checkpointer", "resume_from_checkpoint", "save_adapter_weights_only",
    "check_data", "check_template", "dataset", "dataset_val", "collate_fn", "seed", "shuffle", "batch_size", "batch_size_val",
    "run_val_every_n_steps", "run_val_max_batches", "optimizer", "optimizer_in_bwd", "lr_scheduler", "loss", "epochs",
    "max_steps_per_epoch", "gradient_accumulation_steps", "clip_grad_norm", "save_every_n_steps",
    "save_every_n_epochs", "enable_async_checkpointing", "resize_token_embeddings", "device", "dtype", "compile",
    "enable_activation_checkpointing", "enable_activation_offloading", "activation_offloading_use_streams", "ac_mode",
    "ac_option", "custom_sharded_layers", "fsdp_cpu_offload", "fsdp_reshard_after_forward", "data_parallel_shard_dim",
    "data_parallel_replicate_dim", "tensor_parallel_dim", "tensor_parallel_plan", "context_parallel_dim",
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

log = utils.get_logger("INFO")


class FinetuneRecipe(FTRecipeInterface):
    """One fine-tuning run, as its config says.

    Args:
        cfg: the run's settings; the keys are :data:`CONFIG_KEYS`.

    Raises:
        ValueError: if settings contradict each other; the message names the keys.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg = training.with_one_dataset(cfg)
        log.setLevel(cfg.get("log_level", "INFO"))
        self.device = utils.get_device(cfg.device)
        self.dtype = training.get_dtype(cfg.dtype, device=self.device)
        self.world_size, self.rank = training.get_world_size_and_rank()
        self.parallel = training.Parallelism(cfg, self.device)
        self.accumulation_steps = cfg.get("gradient_accumulation_steps", 1)
        self.optimizer_in_bwd = cfg.get("optimizer_in_bwd", False)
        self.total_epochs = cfg.epochs
        self.epochs_run = 0
        self.global_step = 0
        self.tool_scores: dict[str, tool_eval.ToolEvalResult] = {}
        self.loss_check = training.LossCheck(cfg.get("on_nan_loss", "stop"))
        self.stop = training.StopSignal(self.device)
        self._check()

    def _check(self) -> None:
        """Refuses settings that contradict each other, or that this recipe does not have."""
        cfg = self.cfg
        training.check_step_settings(cfg)
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
        self.seed = training.set_seed(cfg.get("seed"), debug_mode=cfg.get("cudnn_deterministic_mode"))
        self.metric_logger = self._setup_metric_logger()
        self.tokenizer = config.instantiate(cfg.tokenizer)
        self.loss_fn = config.instantiate(cfg.loss)
        self.ignore_index = getattr(self.loss_fn, "ignore_index", -100)
        self.data = self._setup_data(
            "dataset", cfg.batch_size, shuffle=cfg.get("shuffle", True), number_rows=True, **cfg.get("dataloader", {})
        )
        if self.rank == 0:
            folder = cfg.checkpointer.get("checkpoint_dir", "")
            check_template(self.tokenizer, self.data.dataset, folder, cfg.get("check_template", "error"))
        self.data_val = None
        if cfg.get("dataset_val") is not None:
            self.data_val = self._setup_data("dataset_val", cfg.get("batch_size_val") or cfg.batch_size)
        state = self.load_checkpoint()
        self.model = self._setup_model(state)
        self.loss_fn = self._setup_loss(self.loss_fn)
        self.optimizer = training.build_optimizer(cfg, self.model, self.trained)
        self.steps_per_epoch = training.steps_per_epoch(
            self.data, self.accumulation_steps, cfg.get("max_steps_per_epoch")
        )
        training.check_validation_ends(self.data_val, cfg.get("run_val_max_batches"))
        self.total_steps = self.steps_per_epoch * self.total_epochs
        self.objective = training.build_objective(
            cfg, self.model, self.loss_fn, load_teacher=self._load_teacher, total_steps=self.total_steps, seed=self.seed
        )
        self.lr_scheduler = training.build_lr_scheduler(cfg, self.optimizer, self.total_steps)
        self.profiler: Any = training.DummyProfiler()
        if cfg.get("profiler"):
            self.profiler, _ = config.instantiate(cfg.profiler)
        self.tool_evaluator = self._setup_tool_eval()
        self.save_schedule = training.CheckpointSchedule(
            cfg.get("save_every_n_steps"), cfg.get("save_every_n_epochs", 1), self.total_epochs
        )
        self.losses = training.LossAccumulator(self.device, copies=self.parallel.copies_of_tokens)
        self._resume(state)

    def load_checkpoint(self, **_: Any) -> dict[str, Any]:
        """Reads the weights to start from, and, when resuming, the state of the run."""
        self.checkpoints = training.CheckpointClient(self.cfg)
        return self.checkpoints.load_base_checkpoint()

    def train(self, **_: Any) -> None:
        """The loop: epochs of optimizer steps, each over ``gradient_accumulation_steps`` micro-batches."""
        self.evaluate_tool_calls("before" if self.global_step == 0 else f"step {self.global_step}")
        bar = training.progress_bar(self.total_steps, initial=self.global_step, desc="train")
        self.profiler.start()
        for epoch in range(self.epochs_run, self.total_epochs):
            training.set_epoch(self.data, epoch)
            for micro_batches in self._steps(epoch):
                started, lr = time.perf_counter(), training.get_lr(self.optimizer)
                loss, num_tokens, grad_norm = self.train_step(micro_batches)
                self.global_step += 1
                bar.update()
                bar.set_description(f"epoch {epoch + 1}/{self.total_epochs} | loss {loss:.4f}", refresh=False)
                self.log_step(loss, lr, num_tokens, grad_norm, time.perf_counter() - started)
                self.profiler.step()
                if self.data_val is not None and self._due(self.cfg.get("run_val_every_n_steps")):
                    self.validate()
                if self.tool_evaluator is not None and self._due(self.cfg.eval_tool_calls.get("every_n_steps")):
                    self.evaluate_tool_calls(f"step {self.global_step}")
                stopping = self.stop.requested()
                if (stopping or self.save_schedule.after_step(self.global_step)) and not self._at_end_of(epoch):
                    self.save_checkpoint(dir_prefix="step")
                if stopping and not self._at_end_of(epoch):
                    return
            self.epochs_run = epoch + 1
            if self.save_schedule.after_epoch(epoch):
                self.save_checkpoint()
            if self.stop.received:
                return
        self.profiler.stop()
        bar.close()
        if self.data_val is not None:
            self.validate()
        self.evaluate_tool_calls("after")

    def train_step(self, micro_batches: list[dict[str, Any]]) -> tuple[float, int, float | None]:
        """One optimizer step.

        Args:
            micro_batches: batches on the CPU, ``tokens`` and ``labels`` of each ``[b, s]``.

        Returns:
            Mean loss per trained token over all ranks, number of these tokens, norm of the gradients (None if not measured).
        """
        self.objective.at_step(self.global_step)
        if self.cfg.get("fake_quant_after_n_steps") is not None:
            training.set_fake_quant(self.model, self.global_step >= self.cfg.fake_quant_after_n_steps)
        count = self.losses.add_normalized if self.optimizer_in_bwd else self.losses.add
        sums = []
        for batch in micro_batches:
            with self.parallel.loss_context():
                sums.append(count(*self.loss(batch)))
                sums[-1].backward()
        step = self.losses.finish()
        grad_norm = None
        if not self.optimizer_in_bwd:
            training.scale_grads_(self.trained, step.grad_scale)
            if self.cfg.get("clip_grad_norm") is not None:
                grad_norm = float(training.clip_grad_norm(self.trained, float(self.cfg.clip_grad_norm)))
        usable = self.loss_check(step.loss, grad_norm, sums, micro_batches, self.global_step + 1)
        if not self.optimizer_in_bwd:
            if usable:
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        return step.loss.item(), int(step.num_tokens), grad_norm

    def loss(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss per trained token of a batch, and the number of these tokens."""
        batch = {key: value for key, value in batch.items() if key != "rows"}
        utils.batch_to_device(batch, self.device)
        batch = self.parallel.own_part(batch, self.ignore_index)
        labels = batch.pop("labels")  # of each position the next token: datasets give them so
        weights = batch.pop("loss_weights", None)
        num_tokens = training.count_loss_tokens(labels, self.ignore_index, weights)
        with self.activations:
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

    def evaluate_tool_calls(self, label: str) -> None:
        """Scores the model's calls on ``eval_tool_calls.dataset`` and prints a table with a column for each time."""
        if self.tool_evaluator is None:
            return
        model = self.model
        if self.parallel.copies > 1:  # answers are generated with whole layers and sequences
            build = partial(config.instantiate, self.cfg.model)
            model = training.with_whole_layers(model, build, device=self.device, dtype=self.dtype)
        self.tool_scores[label] = result = self.tool_evaluator(model)
        if self.rank == 0:
            self.metric_logger.log_dict(result.scores.metrics(), step=self.global_step)
            if label == "before":
                log.info("Tool calls before training, in %.0f s: %s", result.seconds, result.scores.metrics(prefix=""))
            else:
                Console().print(
                    tool_eval.report(self.tool_scores, title=f"Tool calls, {len(result.cases)} held-out turns")
                )

    def save_checkpoint(self, dir_prefix: str = "epoch", **_: Any) -> None:
        """Writes the model, and, if the run goes on, what a resume needs."""
        mid_epoch = dir_prefix == "step"
        progress = training.TrainingProgress(
            seed=self.seed,
            epochs_run=self.epochs_run,
            total_epochs=self.total_epochs,
            max_steps_per_epoch=self.cfg.get("max_steps_per_epoch") or -1,
            steps_run=self.global_step,
            total_training_steps=self.total_steps,
            dataloader_state_dict=training.loader_state(self.data) if mid_epoch else None,
            lr_scheduler_state_dict=None if self.lr_scheduler is None else self.lr_scheduler.state_dict(),
        )
        self.checkpoints.save_checkpoint(
            model=self.model,
            optimizer=self.optimizer,
            training_progress=progress,
            epoch=max(self.epochs_run - 1, 0),
            adapter_config=self.adapter_config,
            adapter_only=self.cfg.get("save_adapter_weights_only", False),
            single_device=self.world_size == 1,
            dir_prefix=dir_prefix,
        )

    def log_step(self, loss: float, lr: float, num_tokens: int, grad_norm: float | None, seconds: float) -> None:
        """Logs every ``log_every_n_steps`` steps, on rank 0."""
        parts = self.objective.end_step()
        if self.rank != 0 or not self._due(self.cfg.get("log_every_n_steps", 1)):
            return
        metrics = {
            "loss": loss,
            "lr": lr,
            "tokens_per_second_per_gpu": num_tokens / (seconds * self.world_size),
            **parts,
        }
        if grad_norm is not None:
            metrics["grad_norm"] = grad_norm
        if self.loss_check.skipped:
            metrics["skipped_steps"] = self.loss_check.skipped
        if self.cfg.get("log_peak_memory_stats") and self.device.type != "cpu":
            metrics.update(training.get_memory_stats(device=self.device))
        self.metric_logger.log_dict(metrics, step=self.global_step)

    def cleanup(self, **_: Any) -> None:
        """Closes the logger and the process group."""
        if self.metric_logger is not None:
            self.metric_logger.close()
        self.checkpoints.wait()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _steps(self, epoch: int) -> Iterator[list[dict[str, Any]]]:
        """The micro-batches of each optimizer step that is left of an epoch."""
        batches = training.read_batches(self.data)
        for _ in range(self.steps_per_epoch * (epoch + 1) - self.global_step):
            micro_batches = list(islice(batches, self.accumulation_steps))
            if not micro_batches:
                return
            yield micro_batches

    def _due(self, every: int | None) -> bool:
        """Whether the step just done is one of every so many."""
        return bool(every) and self.global_step % every == 0

    def _at_end_of(self, epoch: int) -> bool:
        """Whether the epoch's own checkpoint comes next."""
        return self.global_step == self.steps_per_epoch * (epoch + 1) and self.save_schedule.after_epoch(epoch)

    def _setup_metric_logger(self) -> Any:
        if self.rank != 0:
            return None
        logger = config.instantiate(self.cfg.metric_logger)
        logger.log_config(self.cfg)
        return logger

    def _setup_model(self, state: dict[str, Any]) -> nn.Module:
        """Builds the model without memory, shards it, and gives it its weights."""
        cfg = self.cfg
        with training.set_default_dtype(self.dtype), torch.device("meta"):
            model = config.instantiate(cfg.model)
        self.adapter_config = training.get_adapter_config(model)
        weights = {**state.pop(training.MODEL_KEY)}
        new_adapter = training.ADAPTER_KEY not in state
        if self.adapter_config is not None:
            with training.set_default_dtype(self.dtype):
                weights.update(
                    training.initial_adapter(model, self.seed) if new_adapter else state.pop(training.ADAPTER_KEY)
                )
            set_trainable_params(model, get_adapter_params(model))
        if cfg.get("quantizer"):
            model = training.prepare_qat(model, config.instantiate(cfg.quantizer))
        self.parallel.split_layers(model, self.loss_fn)
        if cfg.get("compile"):
            training.compile_model(model, verbose=self.rank == 0)
        if cfg.get("ac_mode"):
            training.apply_selective_activation_checkpointing(model, cfg.ac_mode, cfg.get("ac_option"))
        elif cfg.get("enable_activation_checkpointing"):
            training.set_activation_checkpointing(model, auto_wrap_policy={modules.TransformerSelfAttentionLayer})
        if cfg.get("layer_dropout"):
            training.add_layer_dropout(model, cfg.layer_dropout)
        offload = cfg.get("fsdp_cpu_offload", False)
        self.parallel.shard(model)
        training.load_from_full_model_state_dict(model, weights, self.device, strict=True, cpu_offload=offload)
        if self.adapter_config is not None and new_adapter:
            training.finish_adapter(model)
        training.validate_no_params_on_meta_device(model)
        self.activations = training.get_act_offloading_ctx_manager(
            model, cfg.get("enable_activation_offloading", False), cfg.get("activation_offloading_use_streams", True)
        )
        self.trained = [p for p in model.parameters() if p.requires_grad]
        if self.rank == 0:
            count = sum(p.numel() for p in self.trained)
            log.info("Training %s of %s parameters", f"{count:,}", f"{sum(p.numel() for p in model.parameters()):,}")
        return model.train()

    def _setup_loss(self, loss_fn: nn.Module) -> nn.Module:
        if isinstance(loss_fn, SFTLoss):
            loss_fn.set_model_output(self.model)
        elif hasattr(loss_fn, "num_output_chunks"):
            self.model.set_num_output_chunks(loss_fn.num_output_chunks)
        if self.cfg.get("compile"):
            loss_fn = training.compile_loss(loss_fn, verbose=self.rank == 0)
        return loss_fn

    def _load_teacher(self) -> nn.Module:
        """The model to learn from, sharded as the one that is trained."""
        weights = config.instantiate(self.cfg.teacher_checkpointer).load_checkpoint()[training.MODEL_KEY]
        with training.set_default_dtype(self.dtype), torch.device("meta"):
            teacher = config.instantiate(self.cfg.teacher_model)
        offload = self.cfg.get("fsdp_cpu_offload", False)
        self.parallel.shard(teacher)
        training.load_from_full_model_state_dict(teacher, weights, self.device, strict=True, cpu_offload=offload)
        return teacher

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

    def _setup_tool_eval(self) -> Any:
        section = self.cfg.get("eval_tool_calls")
        if section is None:
            return None
        return tool_eval.ToolCallEvaluator(
            self.tokenizer,
            config.instantiate(section.dataset),
            max_new_tokens=section.get("max_new_tokens", 256),
            batch_size=section.get("batch_size", 16),
            show_samples=section.get("show_samples", 2),
        )

    def _resume(self, state: dict[str, Any]) -> None:
        """Puts everything where the saved run left it."""
        if not self.cfg.get("resume_from_checkpoint"):
            return
        if self.checkpoints.resumes_from_distributed:
            state = self.checkpoints.load_distributed_checkpoint(self.model, self.optimizer, self.adapter_config)
        else:
            training.load_from_full_optimizer_state_dict(
                self.model, self.optimizer, state[training.OPT_KEY], self.device
            )
        self.epochs_run = state[training.EPOCHS_KEY]
        self.global_step = state.get(training.STEPS_KEY, self.epochs_run * self.steps_per_epoch)
        for key, now in ((training.SEED_KEY, self.seed), (training.TOTAL_EPOCHS_KEY, self.total_epochs)):
            if state.get(key, now) != now:
                log.warning(
                    "The run that is resumed had %s %s, this config has %s; going on with the config's",
                    key,
                    state[key],
                    now,
                )
        if self.lr_scheduler is not None and state.get(training.LR_SCHEDULER_KEY) is not None:
            self.lr_scheduler.load_state_dict(state[training.LR_SCHEDULER_KEY])
        if state.get(training.DATALOADER_KEY) is not None:
            training.load_loader_state(self.data, state[training.DATALOADER_KEY])
        if state.get(training.RNG_KEY) is not None:
            training.set_rng_state(state[training.RNG_KEY])
        log.info(
            "Resumed at step %d of %d, epoch %d of %d",
            self.global_step,
            self.total_steps,
            self.epochs_run + 1,
            self.total_epochs,
        )


@config.parse
def recipe_main(cfg: DictConfig) -> None:
    """Runs the recipe with a parsed config."""
    unknown = config.check_keys(cfg, CONFIG_KEYS)
    training.check_recipe(cfg, unknown, ("model", "tokenizer", "checkpointer", "optimizer", "loss", "epochs"))
    with training.fault_reports(cfg):
        training.keep_freed_memory(cfg.device)
        training.init_distributed(
            backend=training.get_distributed_backend(cfg.device, cfg.get("fsdp_cpu_offload", False)),
            timeout=timedelta(seconds=cfg.get("distributed_timeout_seconds", 1800)),
        )
        config.log_config(recipe_name="FinetuneRecipe", cfg=cfg)
        recipe = FinetuneRecipe(cfg)
        recipe.setup()
        recipe.train()
        recipe.cleanup()


if __name__ == "__main__":
    sys.exit(recipe_main())
