"""Learning from rewards, with tools in the loop: GRPO, DAPO and Dr. GRPO, full or LoRA, on one device or many.

Each step samples a group of answers to every prompt, rewards them, and makes likelier what was better than the rest of its
group. ``tools`` names functions or an environment: calls are run and their results are shown to the model before it goes on.
The loop is :meth:`GRPORecipe.train`.

    tune run --nproc-per-node 8 dev/grpo_full_finetune_distributed --config dev/3B_full_grpo
    tune run dev/grpo_full_finetune_single_device --config quickstart/tool_calling_grpo
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from torchtune import config, training
from torchtune.generation import generate_tokens
from torchtune.modules.peft import disable_adapter
from torchtune.rlhf import masked_sum
from torchtune.rlhf._rollout import as_batch, gathered, group_advantages, token_logprobs
from torchtune.rlhf.loss import GroupPolicyLoss
from torchtune.rlhf.tools import Episode, collect
from torchtune.training import tool_eval

CONFIG_KEYS = {
    "name", "output_dir", "base_model_path", "tokenizer", "model", "checkpointer", "ref_checkpointer",
    "resume_from_checkpoint", "save_adapter_weights_only", "dataset", "seed", "shuffle", "batch_size", "grpo_samples",
    "forward_batch_size", "generation_batch_size", "max_generated_tokens", "temperature", "top_k", "stop_token_ids",
    "tools", "max_tool_calls", "reward_functions", "scale_rewards", "mask_truncated", "ppo_epochs", "num_steps", "epochs",
    "optimizer", "lr_scheduler", "loss", "clip_grad_norm", "save_every_n_steps", "save_every_n_epochs",
    "enable_async_checkpointing", "device", "dtype", "compile", "enable_activation_checkpointing",
    "enable_activation_offloading", "activation_offloading_use_streams", "ac_mode", "ac_option", "custom_sharded_layers",
    "fsdp_cpu_offload", "fsdp_reshard_after_forward", "data_parallel_shard_dim", "data_parallel_replicate_dim",
    "cudnn_deterministic_mode", "metric_logger", "log_every_n_steps", "log_peak_memory_stats", "log_level", "profiler",
    "eval_tool_calls.dataset", "eval_tool_calls.every_n_steps", "eval_tool_calls.max_new_tokens",
    "eval_tool_calls.batch_size", "eval_tool_calls.show_samples",
}  # fmt: skip

ENDS = ("answer", "length", "max_tool_calls", "unparsed", "lost")


class GRPORecipe(training.PolicyRecipe):
    """One run on rewards, as its config says.

    Args:
        cfg: the run's settings; the keys are :data:`CONFIG_KEYS`.

    Raises:
        ValueError: if settings contradict each other; the message names the keys.
    """

    def setup(self, **_: Any) -> None:
        """Builds everything the loop uses."""
        cfg = self.cfg
        if cfg.grpo_samples < 2:
            raise ValueError(
                f"grpo_samples is {cfg.grpo_samples}; answers are compared with others, so it must be 2 or more"
            )
        self.begin()
        self.loss_fn = config.instantiate(cfg.loss)
        if not isinstance(self.loss_fn, GroupPolicyLoss):
            raise ValueError(
                f"loss: {cfg.loss['_component_']} is no loss of this recipe; use torchtune.rlhf.loss.GroupPolicyLoss, or "
                "GRPOLoss, GRPOSimpleLoss or GRPOCompletionLoss of torchtune.dev.grpo.loss"
            )
        self.policy = self.train_model("model", "checkpointer")
        self.reference = None
        if self.loss_fn.kl_coeff and self.policy.adapter_config is None:
            self.reference = self.frozen_model("model", "ref_checkpointer")
        self.toolbox = config.instantiate(cfg.tools) if cfg.get("tools") else None
        self.rewards = self._setup_rewards()
        self.stop_tokens = list(cfg.get("stop_token_ids") or self.tokenizer.official_stop_tokens)
        self.pad_id = getattr(self.tokenizer, "pad_id", 0)
        self.data = training.build_dataloader(
            config.instantiate(cfg.dataset, self.tokenizer),
            batch_size=cfg.batch_size,
            collate_fn=list,
            shuffle=cfg.get("shuffle", True),
            seed=self.seed,
            num_replicas=self.world_size,
            rank=self.rank,
        )
        self.updates = cfg.get("ppo_epochs", 1)
        self.plan(training.steps_per_epoch(self.data, 1, cfg.get("num_steps")), cfg.epochs, self.updates)
        self.profiler = config.instantiate(cfg.profiler) if cfg.get("profiler") else training.DummyProfiler()
        self.tool_evaluator, self.tool_scores = self._setup_tool_eval(), {}
        self.resume()

    def _setup_rewards(self) -> dict[str, Any]:
        """The reward functions by name; without any, those of GSM8K."""
        from torchtune.dev.grpo.rewards import ShapedCorrectnessReward

        sections = self.cfg.get("reward_functions")
        functions = [config.instantiate(section) for section in sections] if sections else [ShapedCorrectnessReward()]
        names = [getattr(function, "__name__", type(function).__name__) for function in functions]
        repeated = Counter(names)
        return {
            name if repeated[name] == 1 else f"{name}_{i}": f
            for i, (name, f) in enumerate(zip(names, functions, strict=True))
        }

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

    def train(self, **_: Any) -> None:
        """The loop: sample groups of answers, reward them, step on them ``ppo_epochs`` times."""
        self.evaluate_tool_calls("before" if self.global_step == 0 else f"step {self.global_step}")
        bar = training.progress_bar(self.total_steps, initial=self.global_step, desc="train")
        self.profiler.start()
        for epoch in range(self.epochs_run, self.total_epochs):
            training.set_epoch(self.data, epoch)
            batches = iter(self.data)
            for _step in range(self.steps_per_epoch * (epoch + 1) - self.global_step):
                started = time.perf_counter()
                episodes = self.sample(next(batches))
                sampled = time.perf_counter()
                rewards, metrics = self.reward(episodes)
                advantages = self.advantages(rewards)
                metrics |= self.learn(episodes, advantages)
                self.global_step += 1
                bar.update()
                bar.set_description(f"epoch {epoch + 1}/{self.total_epochs} | reward {metrics['reward']:.3f}")
                self.log_metrics({**metrics, "seconds_sampling": sampled - started}, started)
                self.profiler.step()
                every = (self.cfg.get("eval_tool_calls") or {}).get("every_n_steps")
                if every and self.global_step % every == 0:
                    self.evaluate_tool_calls(f"step {self.global_step}")
                self.after_step(epoch)
            self.after_epoch(epoch)
        self.profiler.stop()
        bar.close()
        self.evaluate_tool_calls("after")

    @torch.no_grad()
    def sample(self, rows: list[dict[str, Any]]) -> list[Episode]:
        """``grpo_samples`` conversations for each prompt, one group after the other."""
        cfg, model = self.cfg, self.policy.model
        group = dist.group.WORLD if self.world_size > 1 else None
        sampler = partial(
            generate_tokens, model, stop_tokens=self.stop_tokens, max_generated_tokens=cfg.max_generated_tokens,
            batch_size=cfg.get("generation_batch_size") or cfg.batch_size * cfg.grpo_samples,
            temperature=cfg.get("temperature", 1.0), top_k=cfg.get("top_k"), group=group,
        )  # fmt: skip
        episodes = [self.new_episode(row) for row in rows for _ in range(cfg.grpo_samples)]
        with gathered(model):
            collect(
                episodes, self.tokenizer, sampler, stop_tokens=self.stop_tokens, toolbox=self.toolbox,
                max_tool_calls=cfg.get("max_tool_calls", 8), max_tokens=getattr(model, "max_seq_len", None),
                anywhere=self.anywhere,
            )  # fmt: skip
        return episodes

    def new_episode(self, row: dict[str, Any]) -> Episode:
        """A conversation that begins with a row's prompt: its ``messages``, or the ``tokens`` of a plain text."""
        if "messages" not in row:
            return Episode(row.get("row", row), list(row["tokens"]))
        tools = row.get("tools") or (self.toolbox.schemas if self.toolbox is not None else None)
        prompt = self.tokenizer.prompt_tokens(row["messages"], tools=tools)
        return Episode(row["row"], prompt, list(row["messages"]), tools)

    def anywhere(self, here: bool) -> bool:
        """Whether something is true on any rank."""
        if self.world_size == 1:
            return here
        return bool(training.all_reduce_sum(torch.tensor(float(here), device=self.device)) > 0)

    def reward(self, episodes: list[Episode]) -> tuple[torch.Tensor, dict[str, float]]:
        """The rewards of conversations ``[b]``, and what is logged of them: means over all ranks."""
        parts = {name: [float(reward(episode)) for episode in episodes] for name, reward in self.rewards.items()}
        rewards = torch.tensor(list(parts.values()), device=self.device).sum(0)
        groups = rewards.view(-1, self.cfg.grpo_samples)
        records = [[record for record in episode.calls if record.result is not None] for episode in episodes]
        values: dict[str, list[float]] = {
            "reward": rewards.tolist(),
            **({f"reward/{name}": part for name, part in parts.items()} if len(parts) > 1 else {}),
            "groups_alike": (groups.std(-1) < 1e-6).float().tolist(),
            "response_tokens": [float(sum(episode.sampled)) for episode in episodes],
        }
        if self.toolbox is not None:
            failed = [sum(record.result.outcome != "ok" for record in own) for own in records]  # type: ignore[union-attr]
            values |= {
                "tool_calls": [float(len(own)) for own in records],
                "tool_calls_failed": [float(n) for n in failed],
            }
        for end in ENDS:
            values[f"ended/{end}"] = [float(episode.ended == end) for episode in episodes]
        means = torch.tensor([sum(value) / len(value) for value in values.values()], device=self.device)
        return rewards, dict(zip(values, (training.all_reduce_sum(means) / self.world_size).tolist(), strict=True))

    def advantages(self, rewards: torch.Tensor) -> torch.Tensor:
        """By how much each conversation is better than the others of its group ``[b]``."""
        scale = self.cfg.get("scale_rewards", "group")
        deviation = None
        if scale == "batch":
            count, total, squares = training.all_reduce_sum(
                torch.stack([torch.ones_like(rewards), rewards, rewards**2]).double().sum(-1)
            )
            deviation = ((squares - total**2 / count) / (count - 1)).clamp(min=0).sqrt().to(rewards)
        return group_advantages(rewards.view(-1, self.cfg.grpo_samples), scale, deviation).flatten()

    def learn(self, episodes: list[Episode], advantages: torch.Tensor) -> dict[str, float]:
        """Steps on the conversations, ``forward_batch_size`` at a time, and says how that went.

        Args:
            episodes: the conversations.
            advantages: theirs ``[b]``.
        """
        size = self.cfg.get("forward_batch_size") or len(episodes)
        batches = []
        for start in range(0, len(episodes), size):
            part = episodes[start : start + size]
            tokens, mask = as_batch(part, self.pad_id, self.device)
            if self.cfg.get("mask_truncated"):
                mask = mask & torch.tensor([[episode.ended != "length"] for episode in part], device=self.device)
            before = self.logprobs_before(tokens) if self.loss_fn.kl_coeff else None
            old = None
            if self.updates > 1:
                with torch.no_grad():
                    old = token_logprobs(self.policy.model, tokens, self.cfg.get("temperature", 1.0))
            batches.append((tokens, mask, old, before, advantages[start : start + size]))
        sums = torch.zeros(len(STATS) + 1, device=self.device)
        for _update in range(self.updates):
            for batch in batches:
                sums += self.backward(*batch)
            step, norm = self.policy.step(self.cfg.get("clip_grad_norm"))
        sums = training.all_reduce_sum(sums)
        stats = dict(zip(STATS, (sums[:-1] / sums[-1].clamp(min=1)).tolist(), strict=True))
        return {"loss": step.loss.item(), **stats, **({} if norm is None else {"grad_norm": norm})}

    def backward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        old: torch.Tensor | None,
        before: torch.Tensor | None,
        advantages: torch.Tensor,
    ) -> torch.Tensor:
        """Adds the gradients of a micro-batch; gives its statistics, times its weight, and the weight."""
        with self.policy.activations:
            logprobs = token_logprobs(self.policy.model, tokens, self.cfg.get("temperature", 1.0))
        old = logprobs.detach() if old is None else old
        loss, policy, kl, ratio, clipped = self.loss_fn(old, logprobs, before, advantages, mask)
        weight = self.loss_fn.weight(mask)
        self.policy.backward(loss, weight)
        drift = masked_sum(0.5 * (logprobs.detach() - old) ** 2, mask) / mask.sum().clamp(min=1)
        return torch.stack([policy, kl, ratio, clipped, drift, torch.ones_like(policy)]) * weight

    @torch.no_grad()
    def logprobs_before(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities under the model as it was before training."""
        with self.before_training() as model:
            return token_logprobs(model, tokens, self.cfg.get("temperature", 1.0))

    @contextmanager
    def before_training(self) -> Iterator[Any]:
        """The model as it was before training."""
        with nullcontext() if self.reference is not None else disable_adapter(self.policy.model):
            yield self.reference or self.policy.model

    def evaluate_tool_calls(self, label: str) -> None:
        """Scores the model's calls on ``eval_tool_calls.dataset``."""
        if self.tool_evaluator is None:
            return
        self.tool_scores[label] = result = self.tool_evaluator(self.policy.model)
        if self.metric_logger is not None:
            self.metric_logger.log_dict(result.scores.metrics(), step=self.global_step)
            if label == "after":
                from rich.console import Console

                title = f"Tool calls, {len(result.cases)} held-out turns"
                Console().print(tool_eval.report(self.tool_scores, title=title))

    def cleanup(self, **_: Any) -> None:
        """Ends the tools' processes, closes the logger and the process group."""
        if self.toolbox is not None:
            self.toolbox.close()
        super().cleanup()


STATS = ("policy_objective", "kl", "ratios", "clipfrac", "approx_policy_kl")


@config.parse
def recipe_main(cfg: DictConfig) -> None:
    """Runs the recipe with a parsed config."""
    training.run_recipe(GRPORecipe, cfg, CONFIG_KEYS)


if __name__ == "__main__":
    sys.exit(recipe_main())
