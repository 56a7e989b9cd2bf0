"""Writes the values of a config as YAML that a person can read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from recipes.catalog.checkpoints import Checkpoint
from recipes.catalog.methods import Method

# The sections in their order: a comment, and the keys that stand together.
SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("", ("output_dir",)),
    (
        "Your rows, one conversation a line in OpenAI form: messages with tool_calls, and a tools column",
        ("train_file", "test_file"),
    ),
    (
        "",
        (
            "model",
            "tensor_parallel_dim",
            "tensor_parallel_plan",
            "data_parallel_shard_dim",
            "data_parallel_replicate_dim",
        ),
    ),
    ("Rounds weights and inputs while training, as a quantized model will", ("quantizer", "fake_quant_after_n_steps")),
    ("The model to learn from", ("teacher_model", "teacher_checkpointer")),
    ("", ("tokenizer",)),
    ("", ("checkpointer", "resume_from_checkpoint", "save_adapter_weights_only")),
    ("", ("dataset", "check_data", "seed", "shuffle", "collate_fn", "batch_size")),
    ("Loss on held-out rows; null turns it off", ("run_val_every_n_steps", "dataset_val", "batch_size_val")),
    ("Calls on held-out conversations, scored at the start, every so many steps, and at the end", ("eval_tool_calls",)),
    ("Mixed by their weights", ("datasets", "dataloader")),
    ("", ("optimizer", "optimizer_in_bwd", "lr_scheduler", "loss", "kd_loss", "kd_ratio")),
    ("LayerSkip: losses of early layers, and layers skipped at random", ("early_exit_loss", "layer_dropout")),
    ("", ("epochs", "max_steps_per_epoch", "gradient_accumulation_steps", "clip_grad_norm")),
    (
        "",
        (
            "device",
            "dtype",
            "compile",
            "enable_activation_checkpointing",
            "enable_activation_offloading",
            "ac_mode",
            "ac_option",
            "custom_sharded_layers",
            "memory_efficient_fsdp_wrap",
            "fsdp_cpu_offload",
            "fsdp",
            "low_cpu_ram",
        ),
    ),
    ("", ("metric_logger", "log_every_n_steps", "log_peak_memory_stats", "log_level")),
    ("", ("profiler",)),
)
# Said once, behind the key.
REMARKS = {
    "model.lora_attn_modules": "attention layers with an adapter",
    "model.apply_lora_to_mlp": "and the feed-forward layers",
    "model.lora_rank": "higher: learns more, needs more memory",
    "model.lora_alpha": "scale of the update, usually twice the rank",
    "model.use_dora": "DoRA in place of LoRA",
    "model.quantize_base": "base weights in 4 bits",
    "tokenizer.max_seq_len": "longer rows are cut; null keeps them whole",
    "tokenizer.chat_format": "the official template, byte for byte",
    "tokenizer.train_on": "only what the model itself writes",
    "checkpointer.recipe_checkpoint": "state of the run, to resume from",
    "save_adapter_weights_only": "true leaves the merged model out",
    "dataset.packed": "true joins rows up to tokenizer.max_seq_len, which is faster",
    "check_data": "reads all rows before the first step; a number: so many; false: none",
    "kd_ratio": "share of the teacher in the loss",
    "quantizer.groupsize": "weights that share a scale",
    "early_exit_loss.layers": "layers with a loss, as in Python: every fourth",
    "layer_dropout.prob": "of the last layer",
    "optimizer_in_bwd": "true steps in the backward pass: less memory, no accumulation or clipping",
    "max_steps_per_epoch": "null: all rows",
    "gradient_accumulation_steps": "micro-batches per optimizer step",
    "compile": "torch.compile: faster, after a slow first step",
    "enable_activation_checkpointing": "less memory, slower",
    "enable_activation_offloading": "still less memory: activations wait in CPU memory",
    "fsdp_cpu_offload": "true keeps weights and optimizer in CPU memory",
    "fsdp.cpu_offload": "true keeps weights and optimizer in CPU memory",
    "memory_efficient_fsdp_wrap": "true shards embeddings and output by themselves too",
    "profiler.enabled": "true writes a trace of a few steps",
}


def render(checkpoint: Checkpoint, method: Method, values: dict[str, Any]) -> str:
    """The text of a fine-tuning config: how to get the weights, how to run it, then its values."""
    name = f"{checkpoint.name}_{method.name}"
    recipes, processes, machines = method.runs_on(checkpoint)
    run = run_line(name, recipes, processes, values, machines)
    return render_values((f"Weights: {download(checkpoint)}", run), SECTIONS, values)


def render_values(
    header: Iterable[str], sections: tuple[tuple[str, tuple[str, ...]], ...], values: dict[str, Any]
) -> str:
    """The text of a config.

    Raises:
        ValueError: if a key stands in no section.
    """
    homeless = set(values) - {key for _, keys in sections for key in keys}
    if homeless:
        raise ValueError(f"keys without a section: {sorted(homeless)}")
    blocks = ["\n".join(f"# {line}" for line in header)]
    for comment, keys in sections:
        lines = [line for key in keys if key in values for line in _lines(key, values[key], key, 0)]
        if lines:
            blocks.append("\n".join(([f"# {comment}"] if comment else []) + lines))
    return "\n\n".join(blocks) + "\n"


def download(checkpoint: Checkpoint, repo: str = "") -> str:
    """The command that gets a checkpoint's weights, or those of another repository into a folder of its name."""
    family = checkpoint.family
    folder = f"/tmp/{repo.split('/')[1]}" if repo else checkpoint.folder.rstrip("/")
    command = f"tune download {repo or checkpoint.repo} --output-dir {folder}"
    if (ignore := checkpoint.ignore or family.ignore) and not repo:
        command += f' --ignore-patterns "{ignore}"'
    gated = repo.startswith("meta-llama/") if repo else family.gated
    return command + (" --hf-token <HF_TOKEN>" if gated else "")


def run_line(name: str, recipes: Iterable[str], processes: int, values: dict[str, Any], nodes: int = 1) -> str:
    """The second line of a config: how to run it."""
    commands = []
    for recipe in recipes:
        options = ""
        if nodes > 1:
            options = f"--nnodes {nodes} --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint <HOST:PORT> "
        elif "distributed" in recipe:
            options = f"--nproc-per-node {processes} "
        commands.append(f"tune run {options}{recipe} --config {name}")
    optimizer = values.get("optimizer", {}).get("_component_", "")
    needs = "  (needs: pip install bitsandbytes)" if optimizer.startswith("bitsandbytes") else ""
    return f"Run: {'  or  '.join(commands)}{needs}"


def _lines(key: str, value: Any, path: str, depth: int) -> list[str]:
    indent = "  " * depth
    remark = f"  # {REMARKS[path]}" if path in REMARKS else ""
    if isinstance(value, dict):
        inner = [line for k, v in value.items() for line in _lines(k, v, f"{path}.{k}", depth + 1)]
        return [f"{indent}{key}:", *inner]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [f"{indent}{key}:", *(line for item in value for line in _item_lines(item, path, depth))]
    if isinstance(value, list) and len(value) > 1 and all(len(str(v)) > 20 for v in value):
        return [f"{indent}{key}:", *(f"{indent}  - {_scalar(v)}" for v in value)]
    if isinstance(value, list):
        return [f"{indent}{key}: [{', '.join(map(_scalar, value))}]{remark}"]
    return [f"{indent}{key}: {_scalar(value)}{remark}"]


def _item_lines(item: dict[str, Any], path: str, depth: int) -> list[str]:
    """An item of a list of sections."""
    lines = [line for k, v in item.items() for line in _lines(k, v, f"{path}.{k}", depth + 2)]
    return ["  " * (depth + 1) + "- " + lines[0].lstrip(), *lines[1:]]


def _scalar(value: Any) -> str:
    """A value as YAML 1.1 reads it back: '00030' stays a text."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
