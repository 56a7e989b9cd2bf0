"""The page of all settings, made from what the recipes declare when the docs are built: ``settings.md``."""

from __future__ import annotations

from pathlib import Path

from torchtune import _recipe_registry as registry

#: Group -> key -> what it does. A key in a section stands under its section's name, all of them in one line.
SETTINGS: dict[str, dict[str, str]] = {
    "Model and weights": {
        "model": "builds the model; a `lora_*` or `qlora_*` builder trains adapters only",
        "tokenizer": "builds the tokenizer; `chat_format`, `train_on`, `max_seq_len` are its arguments",
        "checkpointer": "where weights come from and go to, see [checkpoints](checkpoints.md)",
        "resize_token_embeddings": "true: rows are added for a vocabulary that is larger than the checkpoint's",
        "base_model_path": "folder of the starting weights, for `${base_model_path}` in other sections",
        "save_adapter_weights_only": "true: no merged model beside the adapter",
        "low_cpu_ram": "read for old configs; weights are mapped and read a layer at a time anyway",
    },
    "Data": {
        "dataset": "what is trained on; a list of sections is mixed",
        "dataset_val": "what the validation loss is measured on",
        "datasets": "the old form of several datasets, see [recipes](recipes.md)",
        "dataloader": "`shuffle`, `collate_fn`, `packed`, `num_workers`, `pin_memory`, `prefetch_factor`, `parallel_method`, for `datasets`",
        "check_data": "true or a number of rows: they are read before the first step, and each bad one is named",
        "check_template": "`error`, `warn` or `off`: rows are held against the checkpoint's chat template",
        "collate_fn": "makes a batch of samples; default `torchtune.data.padded_collate_sft`",
        "shuffle": "another order in each epoch, by `seed`",
        "seed": "of shuffling, new adapters, dropout and sampling",
    },
    "Length and size of the run": {
        "epochs": "passes over the data",
        "max_steps_per_epoch": "ends an epoch after so many optimizer steps; streams need it",
        "num_steps": "prompts of the run (PPO), or batches of an epoch (GRPO)",
        "batch_size": "rows, pairs or prompts of a micro-batch, on each rank",
        "batch_size_val": "the same for validation; default `batch_size`",
        "gradient_accumulation_steps": "micro-batches of an optimizer step",
    },
    "Optimizer and loss": {
        "optimizer": "builds the optimizer",
        "lr_scheduler": "builds the schedule of the learning rate; none: it is constant",
        "loss": "builds the loss; its shape is the method of `dpo.py` and `grpo.py`",
        "clip_grad_norm": "largest norm of the gradients; null: not measured",
        "optimizer_in_bwd": "true: each parameter is stepped as its gradient comes; least memory, no clipping",
        "on_nan_loss": "`stop` or `skip`, see [faults](faults.md)",
    },
    "Precision, memory and speed": {
        "device": "`cuda`, `cpu`, `mps`, `xpu` or `npu`",
        "dtype": "`bf16` or `fp32` of weights and computation",
        "compile": "true: torch.compile, a layer at a time",
        "enable_activation_checkpointing": "true: layers are computed again in the backward pass",
        "enable_activation_offloading": "true: activations wait in the CPU's memory",
        "activation_offloading_use_streams": "copies them while computing; default true",
        "ac_mode": "`full` or `selective` checkpointing",
        "ac_option": "with `selective`: `op`, or every n-th layer",
        "custom_sharded_layers": "layers that FSDP shards by themselves",
        "enable_fp8_training": "true: products in float8, see [many devices](distributed.md)",
        "fp8_recipe_name": "`tensorwise`, `rowwise` or `rowwise_with_gw_hp`",
        "cudnn_deterministic_mode": "sets torch's switches for equal results from run to run",
        "enable_kv_cache": "false: keys and values are computed again for each token",
    },
    "Many devices": {
        "data_parallel_shard_dim": "ranks of FSDP",
        "data_parallel_replicate_dim": "replicas of them (HSDP)",
        "tensor_parallel_dim": "ranks that share a layer",
        "tensor_parallel_plan": "how they share it",
        "context_parallel_dim": "ranks that share a sequence",
        "context_parallel_rotate_method": "`allgather` or `alltoall`",
        "fsdp_cpu_offload": "true: parameters and optimizer on the CPU",
        "fsdp": "`cpu_offload`: the same, as in older configs",
        "memory_efficient_fsdp_wrap": "true: as `custom_sharded_layers: [tok_embeddings, output]`, as in older configs",
        "fsdp_reshard_after_forward": "false: more memory, less traffic",
        "distributed_timeout_seconds": "how long a collective waits; default 1800",
    },
    "What is written": {
        "output_dir": "folder of checkpoints, logs, `metrics.jsonl` and `summary.html`",
        "metric_logger": "builds the logger",
        "log_every_n_steps": "default 1",
        "log_level": "of the messages; default INFO",
        "log_peak_memory_stats": "true: memory of the device in each log line",
        "profiler": "builds a profiler",
        "save_every_n_steps": "a checkpoint in the middle of an epoch",
        "save_every_n_epochs": "default 1",
        "enable_async_checkpointing": "true: training goes on while it is written",
        "resume_from_checkpoint": "true: go on from the newest complete checkpoint; auto: if there is one",
        "run_val_every_n_steps": "validation loss in the middle of an epoch",
        "run_val_max_batches": "batches of a validation",
        "eval_tool_calls": "`dataset`, `every_n_steps`, `max_new_tokens`, `batch_size`, `show_samples`: scores calls in the run",
        "eval_rewards": "`dataset`, `every_n_steps`, `batch_size`, `temperature`: mean reward on held-out prompts",
    },
    "Quantization, distillation, early exits": {
        "quantizer": "what rounds weights: while training (`finetune.py`), after it (`quantize.py`), or on loading",
        "fake_quant_after_n_steps": "steps without rounding first",
        "teacher_model": "builds the teacher",
        "teacher_checkpointer": "its weights",
        "kd_loss": "builds the loss between both",
        "kd_ratio": "its share",
        "early_exit_loss": "`layers`, `curriculum`, `scale_fn`, `scale`",
        "layer_dropout": "`prob`, `layers`, `layers_scale`, `disable_on_eval`",
    },
    "Preferences and rewards": {
        "ref_checkpointer": "weights of the reference model; with LoRA none is needed",
        "policy_model": "builds the model that learns (PPO)",
        "reward_and_value_model": "builds the two that judge (PPO)",
        "ref_policy_checkpointer": "weights of the reference (PPO)",
        "value_checkpointer": "weights of the value model (PPO)",
        "reward_checkpointer": "weights of the reward model (PPO)",
        "ppo_epochs": "steps on the same answers",
        "ppo_batch_size": "answers of a step (PPO)",
        "forward_batch_size": "answers that go through the model at once",
        "generation_batch_size": "answers that are sampled at once",
        "grpo_samples": "answers of each prompt",
        "max_generated_tokens": "of an answer, calls included",
        "tools": "functions or an environment that answer the model's calls; in `generate`, the tools on offer",
        "max_tool_calls": "calls of a conversation",
        "reward_functions": "what an answer is worth; a list is added up",
        "scale_rewards": "`group`, `batch` or `none`",
        "mask_truncated": "true: answers that were cut off are not trained",
        "dynamic_sampling": "further batches of prompts that may be drawn for groups whose rewards are all alike",
        "stop_token_ids": "tokens that end an answer; default the format's",
        "min_response_length": "shorter answers get `reward_penalty` (PPO)",
        "penalise_no_eos": "true: so do those without an end token (PPO)",
        "reward_penalty": "the reward of such an answer (PPO)",
        "whiten_rewards": "true: rewards of a batch get variance one (PPO)",
        "gamma": "discount of later rewards (PPO)",
        "lmbda": "of the generalized advantage (PPO)",
        "kl_coeff": "weight of the divergence from the reference (PPO)",
        "name": "free text",
    },
    "Generation and evaluation": {
        "prompt": "`prompt.user` and `prompt.system`, or a text",
        "messages": "a conversation, JSON or the name of a file",
        "max_new_tokens": "of the answer",
        "temperature": "0 takes the likeliest token",
        "top_k": "only the likeliest so many tokens are drawn",
        "use_distributed_state_dict": "read for old configs",
        "use_flex": "read for old configs",
        "tasks": "names of lm-eval's tasks",
        "limit": "examples of each task",
        "include_path": "folder with tasks of your own",
        "num_fewshot": "examples in the prompt",
        "apply_chat_template": "true: prompts in the model's chat format",
        "chat_template": "another name of it",
        "max_seq_length": "longest prompt with its answer",
    },
}  # fmt: skip


def declared() -> dict[str, list[str]]:
    """Key -> files of the recipes that read it; keys in a section are given as the section."""
    found: dict[str, list[str]] = {}
    for file in sorted({registry.recipe_file(recipe) for recipe in registry.get_all_recipes()}):
        for key in sorted({key.split(".")[0] for key in registry.config_keys(file)}):
            found.setdefault(key, []).append(file.stem)
    return found


def page() -> str:
    """The page."""
    readers = declared()
    count = len(set().union(*readers.values()))
    lines = [
        "# Settings\n",
        "Every key that a recipe reads, made from the recipes when these pages are built. Sections with `_component_` take the",
        "arguments of what they build: see the [API reference](api/index.md). An unknown key gives a warning with the nearest",
        "one; `strict: true` makes it an error.\n",
    ]
    for group, keys in SETTINGS.items():
        lines += [f"## {group}\n", "| key | what it does | read by |", "|---|---|---|"]
        for key, text in keys.items():
            who = readers.get(key, [])
            if who:
                lines.append(f"| `{key}` | {text} | {'all' if len(who) == count else ', '.join(who)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def write_page(folder: Path) -> None:
    """Writes the page, unless it is there as it should be."""
    path = folder / "settings.md"
    if not path.is_file() or path.read_text(encoding="utf-8") != page():
        path.write_text(page(), encoding="utf-8")
