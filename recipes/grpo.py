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
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from torchtune import config, training, utils
from torchtune.generation import generate_tokens
from torchtune.rlhf import masked_sum
from torchtune.rlhf._rollout import alike, as_batch, gathered, group_advantages, token_logprobs
from torchtune.rlhf.loss import GroupPolicyLoss
from torchtune.rlhf.tools import Episode, collect

if TYPE_CHECKING:
    from torchtune.modules import TransformerDecoder

CONFIG_KEYS = {
    "name", "output_dir", "base_model_path", "tokenizer", "model", "checkpointer", "ref_checkpointer",
    "resume_from_checkpoint", "save_adapter_weights_only", "dataset", "seed", "shuffle", "batch_size", "grpo_samples",
    "forward_batch_size", "generation_batch_size", "max_generated_tokens", "temperature", "top_k", "stop_token_ids",
    "tools", "max_tool_calls", "reward_functions", "scale_rewards", "mask_truncated", "dynamic_sampling", "ppo_epochs",
    "num_steps", "epochs",
    "optimizer", "lr_scheduler", "loss", "clip_grad_norm", "save_every_n_steps", "save_every_n_epochs",
    "enable_async_checkpointing", "device", "dtype", "compile", "enable_activation_checkpointing",
    "enable_activation_offloading", "activation_offloading_use_streams", "ac_mode", "ac_option", "custom_sharded_layers",
    "fsdp_cpu_offload", "fsdp_reshard_after_forward", "data_parallel_shard_dim", "data_parallel_replicate_dim",
    "cudnn_deterministic_mode", "on_nan_loss", "distributed_timeout_seconds", "metric_logger", "log_every_n_steps", "log_peak_memory_stats", "log_level", "profiler",
    "eval_tool_calls.dataset", "eval_tool_calls.every_n_steps", "eval_tool_calls.max_new_tokens",
    "eval_tool_calls.batch_size", "eval_tool_calls.show_samples", "eval_rewards.dataset", "eval_rewards.every_n_steps",
    "eval_rewards.temperature", "eval_rewards.batch_size",
}  # fmt: skip

log = utils.get_logger("INFO")

ENDS = ("answer", "length", "max_tool_calls", "unparsed", "lost")


class MicroBatch(NamedTuple):
    """Conversations that go through the model at once.

    Args:
        tokens: ids ``[b, s]``.
        mask: True where the next one was sampled and counts ``[b, s - 1]``.
        old: log-probabilities when sampled ``[b, s - 1]``; None where the model is still the same.
        before: log-probabilities before training ``[b, s - 1]``; None where there is no KL divergence.
        advantages: ``[b]``.
        weight: how many tokens or answers the loss is the mean of.
        rows: numbers of the rows in the data.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    old: torch.Tensor | None
    before: torch.Tensor | None
    advantages: torch.Tensor
    weight: torch.Tensor
    rows: list[int]


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
        if self.loss_fn.kl_coeff and self.policy.adapter_config is None:
            self.reference = self.frozen_model("model", "ref_checkpointer")
        self.toolbox = config.instantiate(cfg.tools) if cfg.get("tools") else None
        self.rewards = self._setup_rewards()
        self.stop_tokens = list(cfg.get("stop_token_ids") or self.tokenizer.official_stop_tokens)
        self.load_data()
        held_out = cfg.get("eval_rewards")
        self.held_out: Any = config.instantiate(held_out.dataset, self.tokenizer) if held_out else None
        self.updates = cfg.get("ppo_epochs", 1)
        self.plan(training.steps_per_epoch(self.data, 1, cfg.get("num_steps")), cfg.epochs, self.updates)
        self.prepare_tool_calls()
        self.reward_scores: dict[str, dict[str, float]] = {}
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

    def train(self, **_: Any) -> None:
        """The loop: sample groups of answers, reward them, step on them ``ppo_epochs`` times."""
        self.evaluate("before" if self.global_step == 0 else f"step {self.global_step}")
        bar = training.progress_bar(self.total_steps, initial=self.global_step, desc="train")
        self.profiler.start()
        for epoch in range(self.epochs_run, self.total_epochs):
            training.set_epoch(self.data, epoch)
            for episodes, rewards, metrics in self.batches(epoch):
                sampled = time.perf_counter()
                metrics |= self.learn(episodes, self.advantages(rewards))
                self.global_step += 1
                bar.update()
                bar.set_description(f"epoch {epoch + 1}/{self.total_epochs} | reward {metrics['reward']:.3f}")
                self.log_metrics(metrics, sampled - metrics["seconds_sampling"])
                self.profiler.step()
                self.evaluate(f"step {self.global_step}", self.global_step)
                self.after_step(epoch)
            self.after_epoch(epoch)
        self.profiler.stop()
        bar.close()
        self.evaluate("after")

    def batches(self, epoch: int) -> Iterator[tuple[list[Episode], torch.Tensor, dict[str, float]]]:
        """For each step of an epoch: conversations, their rewards ``[b]``, what is logged of them.

        With ``dynamic_sampling`` groups whose rewards are all alike, from which nothing is learned, give way to those of up to
        so many further batches of prompts (DAPO). The epoch ends with the prompts, then after fewer steps.
        """
        size, more = self.cfg.grpo_samples, self.cfg.get("dynamic_sampling") or 0
        planned = min(self.steps_per_epoch * (epoch + 1) - self.global_step, self.steps_per_epoch)
        prompts = iter(self.data)
        for _step in range(planned):
            started, drawn = time.perf_counter(), []
            groups: list[tuple[list[Episode], torch.Tensor]] = []
            for batch in islice(prompts, 1 + more):
                episodes = self.sample(batch["samples"], batch.get("rows"))
                rewards, metrics = self.reward(episodes)
                drawn.append(metrics)
                starts = range(0, len(episodes), size)
                groups += [(episodes[i : i + size], rewards[i : i + size]) for i in starts]
                groups.sort(key=lambda group: alike(group[1]))
                if not self.anywhere(any(alike(rewards) for _, rewards in groups[: self.cfg.batch_size])):
                    break
            if not drawn:
                return
            groups = groups[: self.cfg.batch_size]
            means = {name: sum(metrics[name] for metrics in drawn) / len(drawn) for name in drawn[0]}
            means |= {"batches_drawn": float(len(drawn))} if more else {}
            means["seconds_sampling"] = time.perf_counter() - started
            yield [episode for group, _ in groups for episode in group], torch.cat([r for _, r in groups]), means

    @torch.no_grad()
    def sample(
        self,
        rows: list[dict[str, Any]],
        numbers: Sequence[int] | None = None,
        samples: int | None = None,
        **options: Any,
    ) -> list[Episode]:
        """Conversations for each prompt, one group after the other.

        Args:
            rows: the prompts.
            numbers: of their rows in the data.
            samples: conversations for each. Default: ``grpo_samples``.
            options: of :func:`~torchtune.generation.generate_tokens`, in place of the config's.
        """
        cfg, model = self.cfg, self.policy.model
        numbered: list[tuple[dict[str, Any], int | None]] = [
            (row, numbers[i] if numbers else None) for i, row in enumerate(rows)
        ]
        samples = samples or cfg.grpo_samples
        settings: dict[str, Any] = {
            "batch_size": cfg.get("generation_batch_size") or cfg.batch_size * cfg.grpo_samples,
            "temperature": cfg.get("temperature", 1.0), "top_k": cfg.get("top_k"), **options,
        }  # fmt: skip
        group = dist.group.WORLD if self.world_size > 1 else None
        sampler = partial(
            generate_tokens, cast("TransformerDecoder", model), stop_tokens=self.stop_tokens, max_generated_tokens=cfg.max_generated_tokens,
            group=group, **settings,
        )  # fmt: skip
        episodes = [self.new_episode(row, n) for row, n in numbered for _ in range(samples)]
        with gathered(model):
            collect(
                episodes, self.tokenizer, sampler, stop_tokens=self.stop_tokens, toolbox=self.toolbox,
                max_tool_calls=cfg.get("max_tool_calls", 8), max_tokens=getattr(model, "max_seq_len", None),
                anywhere=self.anywhere,
            )  # fmt: skip
        return episodes

    def new_episode(self, row: dict[str, Any], number: int | None = None) -> Episode:
        """A conversation that begins with a row's prompt: its ``messages``, or the ``tokens`` of a plain text."""
        if "messages" not in row:
            return Episode(row.get("row", row), list(row["tokens"]), number=number)
        tools = row.get("tools") or (self.toolbox.schemas if self.toolbox is not None else None)
        prompt = self.tokenizer.prompt_tokens(row["messages"], tools=tools)
        return Episode(row["row"], prompt, list(row["messages"]), tools, number=number)

    def anywhere(self, here: bool) -> bool:
        """Whether something is true on any rank."""
        if self.world_size == 1:
            return here
        return bool(training.all_reduce_sum(torch.tensor(float(here), device=self.device)) > 0)

    def reward(self, episodes: list[Episode], samples: int | None = None) -> tuple[torch.Tensor, dict[str, float]]:
        """The rewards of conversations ``[b]``, and what is logged of them: means over all ranks."""
        samples = samples or self.cfg.grpo_samples
        parts = {name: [float(reward(episode)) for episode in episodes] for name, reward in self.rewards.items()}
        rewards = torch.tensor(list(parts.values()), device=self.device).sum(0)
        groups = rewards.view(len(episodes) // samples, samples)
        records = [[record for record in episode.calls if record.result is not None] for episode in episodes]
        values: dict[str, list[float]] = {
            "reward": rewards.tolist(),
            **({f"reward/{name}": part for name, part in parts.items()} if len(parts) > 1 else {}),
            "groups_alike": [float(alike(group)) for group in groups],
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
        means = {name: torch.tensor(sum(v) / len(v), device=self.device) for name, v in values.items()}
        return rewards, self.means(means)

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
        batches, left_out = self.micro_batches(episodes, advantages)
        sums = torch.zeros(len(STATS) + 1, device=self.device)
        for _update in range(self.updates):
            self.policy.count(torch.zeros((), device=self.device), left_out)
            for batch in batches:
                sums += self.backward(batch)
            step, norm = self.policy.step(self.global_step + 1)
        sums = training.all_reduce_sum(sums)
        stats = dict(zip(STATS, (sums[:-1] / sums[-1].clamp(min=1)).tolist(), strict=True))
        return {"loss": step.loss.item(), **stats, **({} if norm is None else {"grad_norm": norm})}

    def micro_batches(
        self, episodes: list[Episode], advantages: torch.Tensor
    ) -> tuple[list[MicroBatch], torch.Tensor | int]:
        """Conversations as batches, equally many on each rank, and the weight of those that are left out.

        Without a KL divergence, conversations with an advantage of 0 have no gradient: they count, but are not run.
        """
        learned, rest = list(zip(episodes, advantages, strict=True)), []
        if not self.loss_fn.kl_coeff:
            learned, rest = ([pair for pair in learned if bool(pair[1]) == real] for real in (True, False))
        size = self.cfg.get("forward_batch_size") or len(episodes)
        batches: list[MicroBatch] = []
        while not batches or self.anywhere(len(learned) > len(batches) * size):
            part = learned[len(batches) * size :][:size]
            batches.append(self.prepare(part or [(episodes[0], advantages[0])], real=bool(part)))
        return batches, self.loss_fn.weight(self.as_batch([e for e, _ in rest])[1]) if rest else 0

    def as_batch(self, episodes: list[Episode]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids ``[b, s]``, and whether the next one was sampled and counts ``[b, s - 1]``."""
        tokens, mask = as_batch(episodes, self.pad_id, self.device)
        if self.cfg.get("mask_truncated"):
            mask = mask & torch.tensor([[episode.ended != "length"] for episode in episodes], device=self.device)
        return tokens, mask

    @torch.no_grad()
    def prepare(self, part: list[tuple[Episode, torch.Tensor]], real: bool) -> MicroBatch:
        """A batch of conversations with what is known of them before the step; one that is not real has no weight."""
        episodes = [episode for episode, _ in part]
        tokens, mask = self.as_batch(episodes)
        temperature, old, before = self.cfg.get("temperature", 1.0), None, None
        if self.loss_fn.kl_coeff:
            with self.before_training() as model:
                before = token_logprobs(model, tokens, temperature)
        if self.updates > 1:
            old = token_logprobs(self.policy.model, tokens, temperature)
        numbers = sorted({e.number for e in episodes if e.number is not None}) if real else []
        weight = self.loss_fn.weight(mask) * real
        return MicroBatch(tokens, mask, old, before, torch.stack([value for _, value in part]), weight, numbers)

    def backward(self, batch: MicroBatch) -> torch.Tensor:
        """Adds the gradients of a micro-batch; gives its statistics, times its weight, and the weight."""
        with self.policy.activations:
            logprobs = token_logprobs(self.policy.model, batch.tokens, self.cfg.get("temperature", 1.0))
        old = logprobs.detach() if batch.old is None else batch.old
        loss, policy, kl, ratio, clipped = self.loss_fn(old, logprobs, batch.before, batch.advantages, batch.mask)
        self.policy.backward(loss, batch.weight, batch.rows)
        drift = masked_sum(0.5 * (logprobs.detach() - old) ** 2, batch.mask) / batch.mask.sum().clamp(min=1)
        return torch.stack([policy, kl, ratio, clipped, drift, torch.ones_like(policy)]) * batch.weight

    def evaluate(self, label: str, step: int | None = None) -> None:
        """Scores the model on what was held out: calls, and rewards of whole conversations.

        Args:
            label: the time, for tables.
            step: only what is due at this step. Default: all.
        """
        score_calls = partial(self.evaluate_tool_calls, model=self.policy.model)
        for key, score in (("eval_tool_calls", score_calls), ("eval_rewards", self.evaluate_rewards)):
            section = self.cfg.get(key)
            if section and (step is None or self.due(section.get("every_n_steps"))):
                score(label)

    def evaluate_rewards(self, label: str) -> None:
        """The mean reward of a conversation for each prompt of ``eval_rewards.dataset``; by default the likeliest one."""
        section = self.cfg.eval_rewards
        size = section.get("batch_size") or self.cfg.batch_size * self.cfg.grpo_samples
        mine = range(self.rank, len(self.held_out) // self.world_size * self.world_size, self.world_size)
        episodes = []
        for start in range(0, len(mine), size):
            rows = [self.held_out[i] for i in mine[start : start + size]]
            episodes += self.sample(rows, samples=1, temperature=section.get("temperature", 0.0))
        metrics = {f"eval/{name}": value for name, value in self.reward(episodes, samples=1)[1].items()}
        del metrics["eval/groups_alike"]
        self.reward_scores[label] = metrics
        if self.metric_logger is not None:
            self.metric_logger.log_dict(metrics, step=self.global_step)
            log.info("Held-out reward, %s: %.3f", label, metrics["eval/reward"])
            if label == "after":
                self.print_rewards(len(mine) * self.world_size)

    def print_rewards(self, prompts: int) -> None:
        """Prints the held-out rewards, a column for each time that they were scored; there are so many ``prompts``."""
        from rich.console import Console
        from rich.table import Table

        table = Table("mean of", title=f"Rewards, {prompts} held-out prompts")
        for label in self.reward_scores:
            table.add_column(label, justify="right")
        for name in next(iter(self.reward_scores.values())):
            if name.startswith("eval/reward"):
                row = [f"{scores[name]:.3f}" for scores in self.reward_scores.values()]
                table.add_row(name.removeprefix("eval/"), *row)
        Console().print(table)

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
