"""Tiny models, rows and settings for the recipes on preferences and rewards."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from recipes.grpo import GRPORecipe
from torchtune.models.convert_weights import reward_tune_to_hf, tune_to_hf
from torchtune.models.llama2 import llama2, llama2_classifier
from torchtune.rlhf.tools import Episode

sys.path.insert(0, str(Path(__file__).parents[1] / "rlhf"))  # for sample_tools

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "model"
SIZES = {
    "vocab_size": 1024, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "embed_dim": 32, "max_seq_len": 512,
    "intermediate_dim": 64,
}  # fmt: skip
HF_CONFIG = {
    "model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 1024,
    "num_hidden_layers": 2, "intermediate_size": 64,
}  # fmt: skip
_LORA = {"lora_attn_modules": ["q_proj", "v_proj"], "apply_lora_to_mlp": True, "lora_rank": 4, "lora_alpha": 8}


def make_models(folder: Path) -> None:
    """Writes a policy and a reward model with random weights."""
    torch.manual_seed(0)
    sizes: Any = SIZES
    heads = {"num_heads": 2, "num_kv_heads": 2, "dim": 32}
    policy, reward = llama2(**sizes), llama2_classifier(num_classes=1, **sizes)
    for name, weights in (
        ("policy", tune_to_hf(policy.state_dict(), **heads)),
        ("reward", reward_tune_to_hf(reward.state_dict(), **heads)),
    ):
        (folder / name).mkdir()
        save_file({key: w.contiguous() for key, w in weights.items()}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(HF_CONFIG))


def write_rows(path: Path, count: int = 7) -> Path:
    """Preference rows; in every second one the answers are calls."""
    tools = [{"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}}}]

    def call(value: int) -> dict[str, Any]:
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": json.dumps({"a": value})}}],
        }

    rows = []
    for i in range(count):
        question = [{"role": "user", "content": f"What is {i}?"}]
        answers = (call(i), call(-i)) if i % 2 else [{"role": "assistant", "content": c} for c in (f"{i}.", "No idea.")]
        rows.append({"chosen": question + [answers[0]], "rejected": question + [answers[1]], "tools": tools})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def checkpointer(folder: Path, output_dir: str = "${output_dir}", model_type: str = "LLAMA2") -> dict[str, Any]:
    return {
        "_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": str(folder),
        "checkpoint_files": ["model.safetensors"], "recipe_checkpoint": None, "output_dir": output_dir,
        "model_type": model_type,
    }  # fmt: skip


def settings(
    folder: Path, output_dir: Path, *, lora: bool = False, model_key: str = "model", **more: Any
) -> DictConfig:
    """The settings that all these recipes have, and more."""
    builder = "torchtune.models.llama2.lora_llama2" if lora else "torchtune.models.llama2.llama2"
    return OmegaConf.create(
        {
            "output_dir": str(output_dir),
            "tokenizer": {
                "_component_": "torchtune.models.qwen2_5.qwen2_5_tokenizer",
                "path": str(QUICKSTART / "vocab.json"),
                "merges_file": str(QUICKSTART / "merges.txt"),
                "special_tokens_path": str(QUICKSTART / "tokenizer.json"),
                "train_on": "sampled",
            },
            model_key: {"_component_": builder, **SIZES, **(_LORA if lora else {})},
            "checkpointer": checkpointer(folder / "policy"),
            "resume_from_checkpoint": False,
            "seed": 5,
            "optimizer": {"_component_": "torch.optim.AdamW", "lr": 1e-3},
            "device": "cpu",
            "dtype": "fp32",
            "metric_logger": {
                "_component_": "torchtune.training.metric_logging.DiskLogger",
                "log_dir": "${output_dir}/logs",
            },
            "log_every_n_steps": 1,
            **more,
        }
    )


def dpo_settings(folder: Path, output: Path, *, lora: bool = False, loss: str = "DPOLoss", **more: Any) -> DictConfig:
    """Settings of the recipe on preferences."""
    own = {
        "dataset": {
            "_component_": "torchtune.datasets.preference_dataset",
            "source": "json",
            "data_files": str(folder / "rows.jsonl"),
        },
        "shuffle": True, "batch_size": 2, "epochs": 2, "gradient_accumulation_steps": 1, "max_steps_per_epoch": 3,
        "loss": {"_component_": f"torchtune.rlhf.loss.{loss}"},
        **({} if lora else {"ref_checkpointer": checkpointer(folder / "policy")}),
    }  # fmt: skip
    return settings(folder, output, lora=lora, **{**own, **more})


def grpo_settings(folder: Path, output: Path, *, lora: bool = False, tools: bool = False, **more: Any) -> DictConfig:
    """Settings of GRPO."""
    own: dict[str, Any] = {
        "dataset": {
            "_component_": "torchtune.rlhf.prompt_dataset", "source": "json", "data_files": str(folder / "rows.jsonl"),
        },
        "shuffle": True, "batch_size": 2, "grpo_samples": 3, "forward_batch_size": 4, "max_generated_tokens": 6,
        "temperature": 1.0, "ppo_epochs": 2, "num_steps": 2, "epochs": 2, "clip_grad_norm": 1.0,
        "reward_functions": [{"_component_": "torchtune.rlhf.tools.FormatReward"}],
        "loss": {"_component_": "torchtune.rlhf.loss.GroupPolicyLoss", "kl_coeff": 0.05},
        **({"tools": {"_component_": "torchtune.rlhf.tools.Toolbox", "functions": ["sample_tools.add"]}} if tools else {}),
        **({} if lora else {"ref_checkpointer": checkpointer(folder / "policy")}),
    }  # fmt: skip
    return settings(folder, output, lora=lora, **{**own, **more})


def ppo_settings(folder: Path, output: Path, *, lora: bool = False, **more: Any) -> DictConfig:
    """Settings of PPO."""
    reward = checkpointer(folder / "reward", "${output_dir}/value", "REWARD")
    own: dict[str, Any] = {
        "reward_and_value_model": {
            "_component_": "torchtune.models.llama2.llama2_classifier", "num_classes": 1, **SIZES,
        },
        "value_checkpointer": reward, "reward_checkpointer": reward,
        **({} if lora else {"ref_policy_checkpointer": checkpointer(folder / "policy")}),
        "dataset": {
            "_component_": "torchtune.datasets.text_completion_dataset", "source": "json", "column": "prompt",
            "data_files": str(folder / "texts.jsonl"), "split": "train", "add_eos": False,
        },
        "batch_size": 4, "num_steps": 12, "ppo_epochs": 1, "ppo_batch_size": 2, "gradient_accumulation_steps": 1,
        "forward_batch_size": 3, "max_generated_tokens": 6, "temperature": 0.7, "stop_token_ids": [0, 5, 9],
        "min_response_length": 2, "penalise_no_eos": True, "reward_penalty": -3, "whiten_rewards": False, "gamma": 1,
        "lmbda": 0.95, "kl_coeff": 0.01, "loss": {"_component_": "torchtune.rlhf.loss.PPOLoss", "epsilon": 0.2},
    }  # fmt: skip
    return settings(folder, output, lora=lora, model_key="policy_model", **{**own, **more})


def prompt_row(i: int) -> dict[str, Any]:
    arguments = json.dumps({"a": i, "b": 1})
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": f"What is {i} + 1?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": str(i + 1)},
            {"role": "assistant", "content": f"{i + 1}"},
        ]
    }


def even_ids(episode: Episode) -> float:
    """The share of sampled ids that are even: a reward that differs between answers of a random model."""
    ids = [token for turn in episode.turns for token in turn]
    return sum(token % 2 == 0 for token in ids) / len(ids)


class EvenRecipe(GRPORecipe):
    def _setup_rewards(self) -> dict[str, Any]:
        return {"even_ids": even_ids}


class ScriptedRecipe(EvenRecipe):
    """Answers are drawn from their prompt and their number alone, on however many ranks."""

    def sample(self, rows: list[Any], numbers: Any = None, samples: int | None = None, **_: Any) -> list[Episode]:
        episodes = []
        for row in rows:
            for number in range(self.cfg.grpo_samples):
                episode = self.new_episode(row)
                draw = random.Random(f"{episode.prompt} {number}")
                ids = [draw.randrange(20, 900) for _ in range(draw.randint(2, 7))]
                episode.add([2 * (i // 2) for i in ids] if self.all_alike(episode) else ids, sampled=True)
                episode.ended = "answer"
                episodes.append(episode)
        return episodes

    def all_alike(self, episode: Episode) -> bool:
        """Of some prompts all answers are rewarded alike."""
        return bool(self.cfg.get("seed") == 6 and sum(episode.prompt) % 3)


def run_on_two_ranks(jobs: list[tuple[type, Path]], folder: Path) -> None:
    """Runs recipes one after the other on two gloo processes, each from the file of its config."""
    torch.multiprocessing.spawn(_rank, args=(jobs, str(folder)), nprocs=2)


def _rank(rank: int, jobs: list[tuple[Any, Path]], folder: str) -> None:
    torch.set_num_threads(1)
    for number, (recipe_class, path) in enumerate(jobs):
        # they meet in a file: a port might be taken
        torch.distributed.init_process_group("gloo", f"file://{folder}/meet_{number}", rank=rank, world_size=2)
        cfg = OmegaConf.load(path)
        assert isinstance(cfg, DictConfig)
        run(recipe_class, cfg)


class Killed(Exception):
    """The run ends here."""


def run(recipe_class: Any, cfg: DictConfig, kill_after: int | None = None) -> Any:
    """Runs a recipe in this process; ``kill_after`` ends it when so many steps are done and saved."""
    recipe = recipe_class(cfg)
    recipe.setup()
    if kill_after is None:
        recipe.train()
        recipe.cleanup()
        return recipe
    after_step = recipe.after_step

    def stop(epoch: int) -> None:
        after_step(epoch)
        if recipe.global_step == kill_after:
            raise Killed

    recipe.after_step = stop
    try:
        recipe.train()
    except Killed:
        recipe.cleanup()
        return recipe
    raise AssertionError("the run ended before it could be killed")
