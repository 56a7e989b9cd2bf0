"""Learning from a reward model by proximal policy optimization, full or LoRA.

Each step samples an answer to every prompt, scores it with the reward model, and steps on policy and value model
``ppo_epochs`` times. The policy is held to what it was before training: with LoRA that is the model without its adapter; else
a second model, from ``ref_policy_checkpointer``. The loop is :meth:`PPORecipe.train`.

    tune run ppo_full_finetune_single_device --config mistral/7B_full_ppo_low_memory
    tune run ppo_lora_finetune_single_device --config llama2/1B_lora_ppo_single_device
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from torchtune import config, rlhf, training, utils
from torchtune.generation import generate_tokens
from torchtune.rlhf._rollout import gathered, token_logprobs

if TYPE_CHECKING:
    from torchtune.modules import TransformerDecoder

CONFIG_KEYS = {
    "output_dir", "tokenizer", "policy_model", "reward_and_value_model", "checkpointer", "ref_policy_checkpointer",
    "value_checkpointer", "reward_checkpointer", "resume_from_checkpoint", "save_adapter_weights_only", "dataset", "seed",
    "shuffle", "batch_size", "num_steps", "ppo_epochs", "ppo_batch_size", "gradient_accumulation_steps",
    "forward_batch_size", "max_generated_tokens", "temperature", "top_k", "stop_token_ids", "enable_kv_cache",
    "min_response_length", "penalise_no_eos", "reward_penalty", "whiten_rewards", "gamma", "lmbda", "kl_coeff", "optimizer",
    "optimizer_in_bwd", "lr_scheduler", "loss", "clip_grad_norm", "save_every_n_steps", "save_every_n_epochs", "device",
    "dtype", "compile", "enable_activation_checkpointing", "enable_activation_offloading", "ac_mode", "ac_option",
    "cudnn_deterministic_mode", "on_nan_loss", "distributed_timeout_seconds", "metric_logger", "log_every_n_steps", "log_peak_memory_stats", "log_level", "profiler",
}  # fmt: skip

log = utils.get_logger("INFO")


class Rollout(NamedTuple):
    """Sampled answers: ``s`` is the length with the prompt, ``r`` without.

    Args:
        tokens: prompts with answers, padded at the end ``[b, s]``.
        places: for each token of an answer its index in ``tokens`` ``[b, r]``.
        mask: True for the tokens of answers ``[b, r]``.
        logprobs: under the policy that sampled ``[b, r]``.
        values: of what came before each token ``[b, r]``.
        advantages: ``[b, r]``.
        returns: ``[b, r]``.
    """

    tokens: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


class PPORecipe(training.PolicyRecipe):
    """One run with a reward model, as its config says.

    Args:
        cfg: the run's settings; the keys are :data:`CONFIG_KEYS`.

    Raises:
        ValueError: if settings contradict each other; the message names the keys.
    """

    def setup(self, **_: Any) -> None:
        """Builds everything the loop uses."""
        cfg = self.cfg
        self.ppo_batch_size = cfg.get("ppo_batch_size") or cfg.batch_size
        for whole, part, number in (
            ("batch_size", "ppo_batch_size", self.ppo_batch_size),
            ("ppo_batch_size", "gradient_accumulation_steps", self.accumulation_steps),
        ):
            if (cfg.get(whole) or cfg.batch_size) % number:
                raise ValueError(f"{whole} ({cfg.get(whole)}) must be a multiple of {part} ({number})")
        prompts = cfg.batch_size * self.world_size
        if cfg.num_steps < prompts:
            raise ValueError(
                f"num_steps counts prompts; {cfg.num_steps} don't fill one batch of batch_size {cfg.batch_size}"
                + (f" on {self.world_size} ranks" if self.world_size > 1 else "")
            )
        if not cfg.get("enable_kv_cache", True):
            log.info("enable_kv_cache: false has no effect: there is a cache only while answers are sampled")
        self.begin()
        self.loss_fn = config.instantiate(cfg.loss)
        self.policy = self.train_model("policy_model", "checkpointer")
        self.value = self.train_model("reward_and_value_model", "value_checkpointer")
        self.reward_model = self.frozen_model("reward_and_value_model", "reward_checkpointer")
        if self.policy.adapter_config is None:
            self.reference = self.frozen_model("policy_model", "ref_policy_checkpointer")
        self.stop_tokens = list(cfg.get("stop_token_ids") or self.tokenizer.stop_tokens)
        self.load_data()
        total = cfg.num_steps // prompts
        steps = training.steps_per_epoch(self.data, 1, total)
        updates = cfg.get("ppo_epochs", 1) * (cfg.batch_size // self.ppo_batch_size)
        self.plan(steps, -(-total // steps), updates, total_steps=total)
        self.resume()

    def train(self, **_: Any) -> None:
        """The loop: sample answers, score them, step on them ``ppo_epochs`` times."""
        bar = training.progress_bar(self.total_steps, initial=self.global_step, desc="train")
        self.profiler.start()
        for epoch in range(self.epochs_run, self.total_epochs):
            training.set_epoch(self.data, epoch)
            batches = iter(self.data)
            for _step in range(min(self.steps_per_epoch * (epoch + 1), self.total_steps) - self.global_step):
                started = time.perf_counter()
                batch = next(batches)
                rollout, metrics = self.roll_out([list(row["tokens"]) for row in batch["samples"]])
                metrics |= self.learn(rollout, batch.get("rows"))
                self.global_step += 1
                bar.update()
                bar.set_description(f"score {metrics['scores']:.3f}")
                self.log_metrics(metrics, started)
                self.profiler.step()
                self.after_step(epoch)
            self.after_epoch(epoch)
        self.profiler.stop()
        bar.close()

    @torch.no_grad()
    def roll_out(self, prompts: list[list[int]]) -> tuple[Rollout, dict[str, float]]:
        """Samples an answer to each prompt, scores it, and says by how much each token was better than expected."""
        cfg = self.cfg
        with gathered(self.policy.model):
            answers = generate_tokens(
                cast("TransformerDecoder", self.policy.model), prompts, stop_tokens=self.stop_tokens, max_generated_tokens=cfg.max_generated_tokens,
                batch_size=cfg.get("forward_batch_size") or len(prompts), temperature=cfg.get("temperature", 1.0),
                top_k=cfg.get("top_k"), group=dist.group.WORLD if self.world_size > 1 else None,
            )  # fmt: skip
        tokens, places, mask = self.as_batch(prompts, answers)
        logprobs, before, values, scores = (
            torch.cat(parts) for parts in zip(*map(self._judge, *self._split(tokens, places, mask)), strict=True)
        )
        ended = torch.tensor([answer[-1] in self.stop_tokens for answer in answers], device=self.device)
        lengths = mask.sum(-1)
        # an answer without an end has no padding
        padding = torch.nn.functional.pad(~mask, (0, 1), value=True) & ended.unsqueeze(-1)
        penalised = rlhf.get_reward_penalty_mask(
            padding, lengths, cfg.get("penalise_no_eos", True), cfg.get("min_response_length")
        )
        scores = scores.masked_fill(penalised, float(cfg.get("reward_penalty", -3)))
        rewards, kl, kl_rewards = rlhf.get_rewards_ppo(scores, logprobs, before, cfg.kl_coeff, lengths - 1)
        if cfg.get("whiten_rewards"):
            rewards = rlhf.whiten(rewards, mask=mask, shift_mean=False, total=training.all_reduce_sum)
        advantages, returns = rlhf.estimate_advantages(
            values.masked_fill(~mask, 0), rewards.masked_fill(~mask, 0), cfg.gamma, cfg.lmbda, masks=mask,
            total=training.all_reduce_sum,
        )  # fmt: skip
        means = {
            "scores": scores.mean(), "penalised": penalised.float().mean(), "kl": (kl * mask).sum(-1).mean(),
            "kl_rewards": (kl_rewards * mask).sum(-1).mean(), "rlhf_reward": (rewards * mask).sum(-1).mean(),
            "response_lengths": lengths.float().mean(), "ended": ended.float().mean(),
        }  # fmt: skip
        return Rollout(tokens, places, mask, logprobs, values, advantages, returns), self.means(means)

    def _judge(self, tokens: torch.Tensor, places: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Log-probabilities under policy and reference, and values ``[b, r]``, and the scores ``[b]``."""
        logprobs = self.logprobs(self.policy.model, tokens, places, mask)
        with self.before_training() as reference:
            before = self.logprobs(reference, tokens, places, mask)
        last = places.gather(1, mask.sum(-1, keepdim=True) - 1)
        scores = self.reward_model(tokens).squeeze(-1).gather(1, last).squeeze(1)
        return logprobs, before, self.values(tokens, places), scores

    def _split(self, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """Tensors in parts of ``forward_batch_size`` rows."""
        return [tensor.split(self.cfg.get("forward_batch_size") or len(tensor)) for tensor in tensors]

    def as_batch(
        self, prompts: list[list[int]], answers: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prompts with answers ``[b, s]``; for each token of the answers its place ``[b, r]``; True where there is one."""
        rows = [torch.tensor(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True)]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        steps = torch.arange(max(map(len, answers))).unsqueeze(0)
        mask = steps < torch.tensor([[len(answer)] for answer in answers])
        places = torch.where(mask, torch.tensor([[len(prompt)] for prompt in prompts]) + steps, 1)
        return tokens.to(self.device), places.to(self.device), mask.to(self.device)

    def logprobs(self, model: Any, tokens: torch.Tensor, places: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the tokens of answers ``[b, r]``; 0 for padding."""
        every = token_logprobs(model, tokens, self.cfg.get("temperature", 1.0))
        return every.gather(1, places - 1).masked_fill(~mask, 0.0)

    def values(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """The value model's estimate of what came before each token of the answers ``[b, r]``."""
        return self.value.model(tokens).squeeze(-1).gather(1, places - 1)

    def learn(self, rollout: Rollout, numbers: Sequence[int] | None = None) -> dict[str, float]:
        """Steps on sampled answers, in another order each time, and says how that went.

        Args:
            rollout: the answers, ``b`` of them.
            numbers: of their rows in the data.
        """
        sums = torch.zeros(len(STATS) + 1, device=self.device)
        for _epoch in range(self.cfg.get("ppo_epochs", 1)):
            order = torch.randperm(len(rollout.tokens)).to(self.device)
            for batch in order.split(self.ppo_batch_size):
                for rows in batch.chunk(self.accumulation_steps):
                    named = [numbers[i] for i in rows.tolist()] if numbers else ()
                    sums += self.backward(Rollout(*(part[rows] for part in rollout)), named)
                step, norm = self.policy.step(self.global_step + 1)
                self.value.step(self.global_step + 1)
        sums = training.all_reduce_sum(sums)
        stats = dict(zip(STATS, (sums[:-1] / sums[-1].clamp(min=1)).tolist(), strict=True))
        return {"loss": step.loss.item(), **stats, **({} if norm is None else {"grad_norm": norm})}

    def backward(self, rows: Rollout, numbers: Sequence[int] = ()) -> torch.Tensor:
        """Adds the gradients of a micro-batch to both models; gives its statistics, times its weight, and the weight."""
        with self.policy.activations:
            logprobs = self.logprobs(self.policy.model, rows.tokens, rows.places, rows.mask)
            values = self.values(rows.tokens, rows.places)
        loss, policy_loss, value_loss, ratios, clipped = self.loss_fn(
            rows.logprobs, logprobs, rows.advantages, rows.values, values, rows.returns, rows.mask, rows.mask
        )
        weight = rows.mask.sum()
        self.value.count(loss.detach(), weight, numbers)  # its gradients come with the policy's: the loss is of both
        self.policy.backward(loss, weight, numbers)
        drift = 0.5 * rlhf.masked_mean((logprobs.detach() - rows.logprobs) ** 2, rows.mask)
        return torch.stack([policy_loss, value_loss, ratios, clipped, drift, torch.ones_like(drift)]) * weight


STATS = ("policy_loss", "value_loss", "ratios", "clipfrac", "approx_policy_kl")


@config.parse
def recipe_main(cfg: DictConfig) -> None:
    """Runs the recipe with a parsed config."""
    training.run_recipe(PPORecipe, cfg, CONFIG_KEYS)


if __name__ == "__main__":
    sys.exit(recipe_main())
