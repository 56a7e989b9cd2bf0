"""Learning from preferences, full or LoRA, on one device or many: DPO, RSO, IPO, SimPO, ORPO, KTO, as ``loss`` says.

A row has a chosen and a rejected answer. Most losses compare the model with what it was: with LoRA that is the model
without its adapter; else a second model, from ``ref_checkpointer``. The loop is :meth:`DPORecipe.train`.

    tune run lora_dpo_single_device --config llama3_1/8B_lora_dpo_single_device
    tune run --nproc-per-node 8 full_dpo_distributed --config llama3_1/8B_full_dpo loss._component_=torchtune.rlhf.loss.IPOLoss
"""

from __future__ import annotations

import sys
import time
from functools import partial
from itertools import islice
from typing import Any

import torch
from omegaconf import DictConfig

from torchtune import config, training
from torchtune.data import padded_collate_dpo
from torchtune.rlhf import ChosenRejectedOutputs, get_batch_log_probs
from torchtune.rlhf._preferences import mismatched, pair_outputs
from torchtune.rlhf.loss import PreferenceLoss

CONFIG_KEYS = {
    "output_dir", "tokenizer", "model", "checkpointer", "ref_checkpointer", "resume_from_checkpoint",
    "save_adapter_weights_only", "dataset", "seed", "shuffle", "batch_size", "optimizer", "optimizer_in_bwd",
    "lr_scheduler", "loss", "epochs", "max_steps_per_epoch", "gradient_accumulation_steps", "clip_grad_norm",
    "save_every_n_steps", "save_every_n_epochs", "enable_async_checkpointing", "device", "dtype", "compile",
    "enable_activation_checkpointing", "enable_activation_offloading", "activation_offloading_use_streams", "ac_mode",
    "ac_option", "custom_sharded_layers", "fsdp_cpu_offload", "fsdp_reshard_after_forward", "data_parallel_shard_dim",
    "data_parallel_replicate_dim", "cudnn_deterministic_mode", "on_nan_loss", "distributed_timeout_seconds",
    "metric_logger", "log_every_n_steps", "log_peak_memory_stats", "log_level", "profiler",
}  # fmt: skip

IGNORE = -100


class DPORecipe(training.PolicyRecipe):
    """One run on preferences, as its config says.

    Args:
        cfg: the run's settings; the keys are :data:`CONFIG_KEYS`.

    Raises:
        ValueError: if settings contradict each other; the message names the keys.
    """

    def setup(self, **_: Any) -> None:
        """Builds everything the loop uses."""
        cfg = self.cfg
        self.begin()
        self.loss_fn = config.instantiate(cfg.loss)
        if not isinstance(self.loss_fn, PreferenceLoss):
            raise ValueError(
                f"loss: {cfg.loss['_component_']} is no preference loss; use one of torchtune.rlhf.loss: DPOLoss, RSOLoss, "
                "IPOLoss, SimPOLoss, ORPOLoss, KTOLoss"
            )
        self.policy = self.train_model("model", "checkpointer")
        if not self.loss_fn.is_reference_free and self.policy.adapter_config is None:
            self.reference = self.frozen_model("model", "ref_checkpointer")
        self.load_data(partial(padded_collate_dpo, padding_idx=self.pad_id, ignore_idx=IGNORE), drop_last=False)
        self.plan(
            training.steps_per_epoch(self.data, self.accumulation_steps, cfg.get("max_steps_per_epoch")), cfg.epochs
        )
        self.resume()

    def train(self, **_: Any) -> None:
        """The loop: epochs of optimizer steps, each over ``gradient_accumulation_steps`` micro-batches."""
        bar = training.progress_bar(self.total_steps, initial=self.global_step, desc="train")
        self.profiler.start()
        for epoch in range(self.epochs_run, self.total_epochs):
            training.set_epoch(self.data, epoch)
            batches = iter(self.data)
            for _step in range(self.steps_per_epoch * (epoch + 1) - self.global_step):
                started = time.perf_counter()
                self.sums = torch.zeros(len(METRICS), device=self.device)
                for batch in islice(batches, self.accumulation_steps):
                    self.policy.backward(*self.loss(*batch["samples"]), batch.get("rows", ()))
                step, grad_norm = self.policy.step(self.global_step + 1)
                self.global_step += 1
                bar.update()
                bar.set_description(f"epoch {epoch + 1}/{self.total_epochs} | loss {step.loss.item():.4f}")
                self.log_step(step.loss.item(), grad_norm, started)
                self.profiler.step()
                self.after_step(epoch)
            self.after_epoch(epoch)
        self.profiler.stop()
        bar.close()

    def loss(self, tokens: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss over the pairs of a batch, and their number.

        Args:
            tokens: first all chosen, then all rejected conversations ``[2 * b, s]``.
            labels: the tokens that count, not shifted ``[2 * b, s]``.
        """
        tokens, labels = tokens.to(self.device), labels.to(self.device)
        with self.policy.activations:
            said = self.said(self.policy.model, tokens, labels)
        reference = None
        if not self.loss_fn.is_reference_free:
            with self.before_training() as model:
                reference = self.said(model, tokens, labels)
        kl = {"kl": self.kl(tokens, labels)} if self.loss_fn.uses_kl else {}
        losses, chosen, rejected = self.loss_fn(said, reference, **kl)
        # a rank that has no pair left takes part with one that has no labels
        real = (labels != IGNORE).any(-1).chunk(2)[0]
        count = real.sum()
        values = (
            real, chosen, rejected, chosen > rejected, chosen - rejected, said.chosen_logps, said.rejected_logps,
            said.chosen_logits.expand(len(real)), said.rejected_logits.expand(len(real)),
        )  # fmt: skip
        self.sums[:-1] += torch.stack([(value.detach().float() * real).sum() for value in values])
        self.sums[-1] += (labels != IGNORE).sum()
        return torch.where(real, losses, 0.0).sum() / count.clamp(min=1), count

    def said(self, model: Any, tokens: torch.Tensor, labels: torch.Tensor) -> ChosenRejectedOutputs:
        """What a model says of the answers of a batch."""
        return pair_outputs(model, tokens, labels, average=self.loss_fn.uses_average_logps, ignore_index=IGNORE)

    def kl(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """KL divergence of the policy from the reference, on prompts with answers to others, over all ranks."""
        tokens, labels = tokens.chunk(2)[0], labels.chunk(2)[0]
        pairs = mismatched(tokens, labels, pad_id=self.pad_id, ignore_index=IGNORE)
        # every rank runs its sharded model equally often
        ids, targets = (tokens, labels) if pairs is None else pairs
        with torch.no_grad():
            logps = get_batch_log_probs(self.policy.model(ids), targets, IGNORE)  # type: ignore[arg-type]
        with self.before_training() as reference:
            differences = logps - get_batch_log_probs(reference(ids), targets, IGNORE)  # type: ignore[arg-type]
        sums = torch.stack([differences.sum(), torch.tensor(float(len(differences)), device=self.device)])
        sums = training.all_reduce_sum(torch.zeros_like(sums) if pairs is None else sums)
        return sums[0] / sums[1].clamp(min=1)

    def log_step(self, loss: float, grad_norm: float | None, started: float) -> None:
        """Logs the means over all ranks' pairs of a step."""
        sums = training.all_reduce_sum(self.sums)
        means = dict(zip(METRICS[1:-1], (sums[1:-1] / sums[0].clamp(min=1)).tolist(), strict=True))
        tokens = sums[-1].item() / (time.perf_counter() - started) / self.world_size
        metrics = {"loss": loss, **means, "tokens_per_second_per_gpu": tokens}
        self.log_metrics(metrics if grad_norm is None else {**metrics, "grad_norm": grad_norm}, started)


METRICS = (
    "pairs", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "log_probs/chosen",
    "log_probs/rejected", "logits/chosen", "logits/rejected", "tokens",
)  # fmt: skip


@config.parse
def recipe_main(cfg: DictConfig) -> None:
    """Runs the recipe with a parsed config."""
    training.run_recipe(DPORecipe, cfg, CONFIG_KEYS)


if __name__ == "__main__":
    sys.exit(recipe_main())
