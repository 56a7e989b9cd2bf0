"""The methods of fine-tuning: which recipe, which builder, which settings. One row per method.

Settings are written ``key=value`` (dotted key, YAML value), ``-key`` leaves a key or section out, ``@name`` stands for a
group below.
"""

from __future__ import annotations

from dataclasses import dataclass

from recipes.catalog.checkpoints import Checkpoint


@dataclass(frozen=True)
class Method:
    """A way to fine-tune.

    Args:
        name: the config's name after the checkpoint.
        recipes: the recipes that list its configs; the first one is shown in the config.
        builder: what stands before the name of the full model's builder.
        settings: what differs from ``COMMON``.
        nodes: how many machines it is shown with.
        tool_calls: whether it is about tool calls: the official chat format, and settings of its own.
    """

    name: str
    recipes: tuple[str, ...]
    builder: str
    settings: str
    nodes: int = 1
    tool_calls: bool = False

    def runs_on(self, checkpoint: Checkpoint) -> tuple[tuple[str, ...], int, int]:
        """The recipes for a checkpoint, processes on a machine, and machines; what needs a whole machine has no other."""
        processes, machines = checkpoint.processes, self.nodes
        if self.name == "full_tool_calling" and checkpoint.machines:
            processes, machines = 8, checkpoint.machines
        many = tuple(recipe for recipe in self.recipes if "distributed" in recipe)
        return (many if many and processes >= 8 else self.recipes), processes, machines


GROUPS = {
    "validation": "dataset.split=train[:95%] run_val_every_n_steps=null batch_size_val=${batch_size} "
    "dataset_val._component_=torchtune.datasets.alpaca_cleaned_dataset dataset_val.split=train[95%:]",
    "no_validation": "-dataset.split -run_val_every_n_steps -batch_size_val -dataset_val",
    "schedule": "lr_scheduler._component_=torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup "
    "lr_scheduler.num_warmup_steps=100",
    "adapter": "model.lora_attn_modules=[q_proj,v_proj,output_proj] model.apply_lora_to_mlp=true model.lora_rank=8 "
    "model.lora_alpha=16 model.lora_dropout=0.0 optimizer.lr=3e-4 optimizer.weight_decay=0.01 "
    "gradient_accumulation_steps=8 save_adapter_weights_only=false @schedule",
    "rank_16": "model.lora_rank=16 model.lora_alpha=32",
    "rank_32": "model.lora_rank=32 model.lora_alpha=64",
    "rank_64": "model.lora_rank=64 model.lora_alpha=128",
    "alpaca": "dataset._component_=torchtune.datasets.alpaca_dataset",
    "cauldron": "dataset._component_=torchtune.datasets.multimodal.the_cauldron_dataset dataset.subset=ocrvqa",
    "vision": "model.image_size=560 tokenizer.image_size=560 tokenizer.max_seq_len=8192 clip_grad_norm=1.0 "
    "collate_fn=torchtune.data.padded_collate_tiled_images_and_mask -enable_activation_offloading",
    "fused_adamw": "optimizer._component_=torch.optim.AdamW optimizer.fused=true optimizer_in_bwd=false",
    "paged": "optimizer._component_=bitsandbytes.optim.PagedAdamW -optimizer.fused optimizer_in_bwd=true",
    "paged_8bit": "optimizer._component_=bitsandbytes.optim.PagedAdamW8bit",
    "long_warmup": "profiler.warmup_steps=5",
    "short_profiler": "-profiler profiler._component_=torchtune.training.setup_torch_profiler profiler.enabled=false",
    "offload": "optimizer.fused=false fsdp_cpu_offload=true",
    "llama_tp": "tensor_parallel_dim=1 tensor_parallel_plan._component_=torchtune.models.llama3.base_llama_tp_plan",
    "llama4_tp": "tensor_parallel_plan._component_=torchtune.models.llama4.decoder_only_tp_plan "
    "data_parallel_shard_dim=-1 data_parallel_replicate_dim=1",
    "tools": "train_file=./train.jsonl test_file=./test.jsonl tokenizer.max_seq_len=4096 tokenizer.train_on=sampled "
    "-dataset dataset._component_=torchtune.datasets.chat_dataset dataset.source=json dataset.data_files=${train_file} "
    "dataset.conversation_column=messages dataset.conversation_style=openai dataset.split=train dataset.packed=false "
    "dataset_val._component_=torchtune.datasets.chat_dataset dataset_val.source=json dataset_val.data_files=${test_file} "
    "dataset_val.conversation_column=messages dataset_val.conversation_style=openai dataset_val.split=train "
    "batch_size_val=${batch_size} run_val_every_n_steps=100 check_data=true "
    "eval_tool_calls.dataset._component_=torchtune.datasets.tool_eval_dataset eval_tool_calls.dataset.source=json "
    "eval_tool_calls.dataset.data_files=${test_file} eval_tool_calls.dataset.style=openai "
    "eval_tool_calls.every_n_steps=200 eval_tool_calls.max_new_tokens=256 eval_tool_calls.batch_size=8 "
    "batch_size=4 epochs=3 clip_grad_norm=1.0 gradient_accumulation_steps=4 enable_activation_checkpointing=true "
    "lr_scheduler.num_warmup_steps=20",
}

COMMON = (
    "tokenizer.max_seq_len=null checkpointer.recipe_checkpoint=null checkpointer.output_dir=${output_dir} "
    "resume_from_checkpoint=false dataset._component_=torchtune.datasets.alpaca_cleaned_dataset dataset.packed=false "
    "seed=null shuffle=true batch_size=2 optimizer._component_=torch.optim.AdamW optimizer.fused=true "
    "loss._component_=torchtune.modules.loss.LinearCrossEntropyLoss epochs=1 max_steps_per_epoch=null "
    "gradient_accumulation_steps=1 clip_grad_norm=null compile=false device=cuda dtype=bf16 "
    "enable_activation_checkpointing=true enable_activation_offloading=false "
    "metric_logger._component_=torchtune.training.metric_logging.DiskLogger metric_logger.log_dir=${output_dir}/logs "
    "log_every_n_steps=1 log_peak_memory_stats=true log_level=INFO "
    "profiler._component_=torchtune.training.setup_torch_profiler profiler.enabled=false "
    "profiler.output_dir=${output_dir}/profiling_outputs profiler.cpu=true profiler.cuda=true "
    "profiler.profile_memory=false profiler.with_stack=false profiler.record_shapes=true profiler.with_flops=false "
    "profiler.wait_steps=5 profiler.warmup_steps=3 profiler.active_steps=2 profiler.num_cycles=1"
)

_FULL_ONE, _FULL_MANY = "full_finetune_single_device", "full_finetune_distributed"
_LORA_ONE, _LORA_MANY = "lora_finetune_single_device", "lora_finetune_distributed"
_NO_OUTPUT = "model.apply_lora_to_output=false"

METHODS = {
    method.name: method
    for method in (
        Method("full_single_device", (_FULL_ONE,), "", "optimizer.lr=2e-5 @paged"),
        Method("full_low_memory", (_FULL_ONE,), "", "optimizer.lr=5e-6 @paged enable_activation_offloading=true"),
        Method("full", (_FULL_MANY,), "", "optimizer.lr=2e-5 optimizer_in_bwd=false @validation"),
        Method(
            "full_multinode",
            (_FULL_MANY,),
            "",
            "optimizer.lr=2e-5 optimizer_in_bwd=false @validation compile=true",
            nodes=2,
        ),
        Method("full_tool_calling", (_FULL_ONE, _FULL_MANY), "", "optimizer.lr=2e-5 @schedule @tools", tool_calls=True),
        Method("lora_single_device", (_LORA_ONE,), "lora_", "@adapter @long_warmup"),
        Method(
            "lora",
            (_LORA_MANY,),
            "lora_",
            f"@adapter @validation {_NO_OUTPUT} enable_activation_checkpointing=false",
        ),
        Method(
            "lora_tool_calling",
            (_LORA_ONE, _LORA_MANY),
            "lora_",
            "@adapter @rank_32 optimizer.lr=2e-4 @tools model.lora_attn_modules=[q_proj,k_proj,v_proj,output_proj]",
            tool_calls=True,
        ),
        Method("qlora_single_device", (_LORA_ONE,), "qlora_", f"@adapter @long_warmup {_NO_OUTPUT} low_cpu_ram=false"),
        Method("qlora", (_LORA_MANY,), "qlora_", f"@adapter @validation {_NO_OUTPUT}"),
        Method(
            "dora_single_device",
            (_LORA_ONE,),
            "lora_",
            f"@adapter {_NO_OUTPUT} model.use_dora=true",
        ),
        Method(
            "qdora_single_device",
            (_LORA_ONE,),
            "lora_",
            f"@adapter {_NO_OUTPUT} model.use_dora=true model.quantize_base=true",
        ),
        Method(
            "dora",
            (_LORA_MANY,),
            "lora_",
            f"@adapter {_NO_OUTPUT} model.use_dora=true gradient_accumulation_steps=1 "
            "enable_activation_checkpointing=false",
        ),
    )
}
