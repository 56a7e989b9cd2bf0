"""Where a checkpoint's config differs from its method's: patterns of config names, and settings, applied in order."""

from __future__ import annotations

SETTINGS: tuple[tuple[str, str], ...] = (
    # tokenizer and data
    ("gemma*/* llama3_1/405B_qlora llama3/8B_*dora*", "-tokenizer.max_seq_len"),
    ("llama2/*_low_memory llama3/*_full_single_device llama3_1/*_full_single_device", "@alpaca"),
    ("mistral/*_low_memory mistral/*lora_single_device gemma*/*_single_device", "@alpaca"),
    ("qwen3/*_full qwen3/*_lora", "@no_validation"),
    # full, one device
    ("llama2/*_low_memory", "optimizer.lr=1e-5 @schedule"),
    ("llama3/*_full_single_device", "@paged_8bit optimizer.lr=1e-5 @schedule"),
    ("llama3_1/*_full_single_device", "@paged_8bit"),
    ("llama3_2/*_full_single_device", "@paged_8bit batch_size=4"),
    (
        "llama3_2/1B_full_single_device",
        "seed=123 checkpointer.keep_last_n_checkpoints=2 -checkpointer.recipe_checkpoint "
        "enable_activation_checkpointing=false",
    ),
    ("phi4/*_full_low_memory phi4/*_full phi4/*lora*", "-clip_grad_norm"),
    ("qwen*/[78]B_full_single_device qwen2_5/3B_full_single_device", "optimizer.lr=5e-6"),
    ("qwen2/0.5B_full_single_device qwen2_5/0.5B_full_single_device", "@fused_adamw gradient_accumulation_steps=8"),
    (
        "qwen3/0.6B_full_single_device",
        "@fused_adamw gradient_accumulation_steps=8 enable_activation_checkpointing=false",
    ),
    ("qwen2_5/0.5B_full_single_device", "enable_activation_checkpointing=false"),
    ("qwen2_5/1.5B_full_single_device", "batch_size=4"),
    ("qwen3/1.7B_full_single_device", "@fused_adamw batch_size=4 enable_activation_checkpointing=false"),
    ("qwen3/4B_full_single_device", "@fused_adamw"),
    # full, several devices
    ("llama3/*_full llama3_1/*_full llama3_3/*_full*", "custom_sharded_layers=[tok_embeddings,output]"),
    ("llama3*/70B_full llama3_3/70B_full_multinode", "@llama_tp"),
    ("llama3*/70B_full", "@offload"),
    (
        "llama3_3/70B_full_multinode",
        "output_dir=/tmp/torchtune/llama3_3_70B/full tokenizer.max_seq_len=1024 batch_size=4 tensor_parallel_dim=8 "
        "data_parallel_shard_dim=-1 data_parallel_replicate_dim=1 fsdp_cpu_offload=false",
    ),
    ("llama3_2/*_full", "batch_size=4 gradient_accumulation_steps=8"),
    ("llama3_2/1B_full qwen2/0.5B_full qwen2/1.5B_full qwen2_5/0.5B_full", "enable_activation_checkpointing=false"),
    ("qwen3/0.6B_full qwen3/1.7B_full", "enable_activation_checkpointing=false"),
    ("mistral/*_full phi3/*_full phi4/*_full qwen*/[78]B_full qwen2_5/3B_full qwen3/4B_full", "optimizer.lr=5e-6"),
    ("phi3/*_full phi4/*_full qwen*/[78]B_full qwen2_5/3B_full qwen3/4B_full", "gradient_accumulation_steps=8"),
    ("qwen*/0.[56]B_full", "gradient_accumulation_steps=8"),
    ("gemma/7B_full gemma2/9B_full gemma2/27B_full", "batch_size=1"),
    # adapters
    ("llama3/8B_*dora*", "-model.lora_dropout"),
    ("llama3/8B_*dora_single_device", "@long_warmup"),
    ("llama2/7B_*lora* llama2/13B_*lora*", "checkpointer.adapter_checkpoint=null"),
    ("*_qlora_single_device", "model.lora_rank=64 batch_size=4"),
    ("llama2/*_qlora_single_device llama3/*_qlora_single_device", "model.lora_rank=8 batch_size=2"),
    ("llama3_1/*_qlora_single_device phi*/*_qlora_single_device", "model.lora_rank=8 batch_size=2"),
    ("llama3*/*lora_single_device qwen2_5/[01].5B_lora_single_device", "profiler.warmup_steps=3"),
    ("qwen3/0.6B_lora_single_device qwen3/1.7B_lora_single_device", "profiler.warmup_steps=3"),
    ("phi3/*_single_device", "profiler.output_dir=/tmp/Phi-3-mini-4k-instruct/profiling_outputs"),
    ("phi4/*_single_device", "profiler.output_dir=/tmp/phi-4/profiling_outputs"),
    ("llama[23]*/*_lora_single_device phi*/*_lora_single_device", "model.apply_lora_to_output=false"),
    ("qwen*/7B_lora_single_device qwen*/14B_lora_single_device", "model.apply_lora_to_output=false"),
    ("qwen3/8B_lora_single_device", "model.apply_lora_to_output=false"),
    ("llama3_2/*lora*", "@rank_64 batch_size=4"),
    ("llama3_2/*lora_single_device", "-model.apply_lora_to_output"),
    ("gemma*/*_qlora_single_device llama3_2/*_lora qwen*/[01].?B_lora", "-model.apply_lora_to_output"),
    ("gemma*/*_lora qwen2_5/3B_lora qwen3/4B_lora", "-model.apply_lora_to_output"),
    ("llama3_2/1B_*lora_single_device", "enable_activation_checkpointing=false"),
    ("mistral/*_lora*", "model.lora_rank=64 model.apply_lora_to_output=true batch_size=4"),
    ("mistral/*lora*", "optimizer.lr=2e-5 -optimizer.weight_decay"),
    (
        "gemma*/*lora*",
        "@rank_64 optimizer.lr=2e-5 batch_size=4 lr_scheduler.num_warmup_steps=10 -optimizer.weight_decay",
    ),
    ("gemma/7B_lora_single_device gemma2/9B_lora_single_device", "model.lora_rank=8 model.lora_alpha=16"),
    ("gemma2/27B_lora_single_device", "model.lora_rank=8 model.lora_alpha=16 optimizer.lr=5e-5 batch_size=2"),
    ("gemma/7B_lora_single_device gemma2/9B_lora_single_device", "optimizer.lr=5e-5 batch_size=8"),
    ("gemma2/2B_lora_single_device", "batch_size=8"),
    ("llama2/13B_lora", "model.apply_lora_to_output=true optimizer.lr=2e-4"),
    (
        "llama2/70B_*lora llama3*/70B_*lora",
        "@rank_16 gradient_accumulation_steps=1 enable_activation_checkpointing=true",
    ),
    ("llama2/*_qlora llama3_1/405B_qlora", "fsdp.cpu_offload=false"),
    ("llama2/13B_qlora_single_device", "checkpointer.checkpoint_dir=/tmp/Llama-2-13b-hf/"),
    ("llama3_1/405B_qlora", "@rank_16 batch_size=1 save_adapter_weights_only=true -model.lora_dropout"),
    ("llama3_[13]/70B_*lora", "save_adapter_weights_only=true"),
    ("llama2/7B_lora qwen2/*_lora qwen2_5/*[37]*B_lora qwen3/[348]*B_lora", "@long_warmup"),
    ("mistral/*_lora gemma*/*_lora", "gradient_accumulation_steps=1 enable_activation_checkpointing=true"),
    ("qwen2/[01].5B_lora qwen2_5/72B_lora", "enable_activation_checkpointing=true"),
    ("qwen2_5/72B_lora", "gradient_accumulation_steps=1"),
    ("qwen2*/[01].5B_lora*", "@rank_32 optimizer.lr=2e-3"),
    ("qwen2/0.5B_lora*", "batch_size=4"),
    ("qwen2*/1.5B_lora", "optimizer.lr=2e-5"),
    ("qwen*/1.?B_lora*", "-optimizer.weight_decay"),
    ("qwen3/0.6B_lora* qwen3/1.7B_lora*", "@rank_32 optimizer.lr=1e-4"),
    ("qwen3/1.7B_lora", "optimizer.lr=2e-5"),
    ("qwen2_5/[01].5B_lora_single_device qwen3/[01].?B_lora_single_device", "enable_activation_checkpointing=false"),
    ("qwen3/*_lora*", "optimizer_in_bwd=false"),
    ("qwen*/*_lora qwen*/*_lora_single_device llama3/8B_*dora*", "-save_adapter_weights_only"),
    ("llama3_2*/*_qlora_single_device llama2/13B_qlora_single_device gemma*/2B_qlora_single_device", "-low_cpu_ram"),
    ("qwen2_5/[37]*B_full* qwen2_5/[37]*B_lora* qwen2_5/14B_lora*", "log_peak_memory_stats=false"),
    ("qwen3_moe/*lora* gpt_oss/*lora*", "model.apply_lora_to_mlp=false batch_size=1"),
    # vision and mixture of experts
    ("llama3_2_vision/*", "@vision"),
    (
        "llama3_2_vision/*_full*",
        "model.decoder_trainable=false model.encoder_trainable=true model.fusion_trainable=true "
        "gradient_accumulation_steps=8 optimizer_in_bwd=false",
    ),
    (
        "llama3_2_vision/*lora*",
        "model.decoder_trainable=frozen model.encoder_trainable=lora model.fusion_trainable=lora "
        "model.lora_rank=8 model.lora_alpha=16 optimizer.lr=1e-4 batch_size=2 enable_activation_checkpointing=true",
    ),
    ("llama3_2_vision/*_single_device", "@cauldron"),
    ("llama3_2_vision/*_qlora_single_device", "-dataset.packed"),
    ("llama3_2_vision/*_full", "custom_sharded_layers=[decoder.tok_embeddings]"),
    (
        "llama3_2_vision/11B_full_single_device",
        "@paged_8bit profiler.profile_memory=true profiler.wait_steps=1 profiler.warmup_steps=2 profiler.active_steps=1",
    ),
    ("llama4/*", "@short_profiler tokenizer.max_num_tiles=16 optimizer.fused=false"),
    ("llama4/*_full", "@llama4_tp @offload batch_size=1"),
    ("llama4/scout*_full", "tensor_parallel_dim=2"),
    ("llama4/maverick*_full", "tensor_parallel_dim=8"),
    (
        "llama4/*_lora",
        "@rank_16 model.decoder_trainable=lora model.encoder_trainable=frozen model.fusion_trainable=lora "
        "save_adapter_weights_only=true gradient_accumulation_steps=1 optimizer.lr=2e-5 optimizer_in_bwd=false "
        "-optimizer.weight_decay enable_activation_checkpointing=true custom_sharded_layers=[tok_embeddings] "
        "fsdp_cpu_offload=false",
    ),
)

# The same for the configs about tool calls.
TOOL_CALLING: tuple[tuple[str, str], ...] = (
    ("*/[34]B_full_tool_calling */[78]B_full_tool_calling", "optimizer.lr=1e-5"),
    ("phi4_mini/*_full_tool_calling granite4/*_full_tool_calling", "optimizer.lr=1e-5"),
    # weights, gradients and two states in bf16 would fill 80 GB
    ("*/[78]B_full_tool_calling", "optimizer._component_=torchao.optim.AdamW8bit -optimizer.fused batch_size=2"),
    (
        "mistral/7B_*",
        "model.vocab_size=32768 model.num_layers=32 model.num_heads=32 model.num_kv_heads=8 model.embed_dim=4096 "
        "model.intermediate_dim=14336 model.max_seq_len=32768 model.rope_base=1000000",
    ),
    ("*/[78]B_full_tool_calling", "gradient_accumulation_steps=8"),
    # their templates have no calls: Gemma's family has none at all, Phi's has tokens for them
    ("gemma3/*", "tokenizer.format_options.tool_convention=hermes"),
    ("phi4_mini/*", "tokenizer.format_options.tool_convention=native"),
    # OpenAI's ids are not of nine letters or digits
    ("mistral*/* ministral/*", "tokenizer.format_options.call_ids=derive"),
    # sharded over eight devices or more
    ("*/[12]?B_full_tool_calling gpt_oss/*_full_tool_calling", "optimizer.lr=1e-5 gradient_accumulation_steps=1"),
    (
        "qwen3_moe/*_full_tool_calling gpt_oss/120b_full_tool_calling",
        "optimizer.lr=1e-5 batch_size=1 gradient_accumulation_steps=1",
    ),
    # adapters of attention only: those of all experts are many times as large (apply_lora_to_mlp=true trains them)
    (
        "qwen3_moe/*_lora_tool_calling gpt_oss/*_lora_tool_calling",
        "model.apply_lora_to_mlp=false batch_size=1 gradient_accumulation_steps=16",
    ),
)
