"""Configs of the recipes on preferences and rewards: DPO, PPO, GRPO. A row is another config with settings of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recipes.catalog._render import SECTIONS, download, render_values, run_line
from recipes.catalog._values import apply
from recipes.catalog.checkpoints import find_checkpoint
from recipes.catalog.variants import Variant, variant_values

# What is taken over from a config of supervised tuning
_SHARED = {
    "output_dir", "model", "tokenizer", "checkpointer", "resume_from_checkpoint", "seed", "shuffle", "optimizer", "device",
    "dtype", "compile", "metric_logger", "log_every_n_steps", "log_peak_memory_stats", "log_level",
}  # fmt: skip
_SCHEDULE = "lr_scheduler._component_=torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
_PREFERENCES = (
    "dataset._component_=torchtune.datasets.stack_exchange_paired_dataset tokenizer.max_seq_len=1024 batch_size=4 "
    f"max_steps_per_epoch=1000 gradient_accumulation_steps=8 optimizer.weight_decay=0.05 {_SCHEDULE} "
    "epochs=1 enable_activation_checkpointing=true enable_activation_offloading=false"
)
_DPO = "loss._component_=torchtune.rlhf.loss.DPOLoss loss.beta={} loss.label_smoothing=0"
_LORA_DPO = f"{_PREFERENCES} save_adapter_weights_only=false optimizer.lr=5e-4 lr_scheduler.num_warmup_steps=100 {_DPO.format(0.1)}"
_FULL_DPO = f"{_PREFERENCES} optimizer.lr=2e-5 lr_scheduler.num_warmup_steps=20 {_DPO.format(0.05)}"
_PLAIN_DPO = "-loss.beta -loss.label_smoothing"

_PPO = (
    "-model tokenizer.max_seq_len=512 dataset._component_=torchtune.datasets.text_completion_dataset "
    "dataset.source=trl-internal-testing/sentiment-trl-style dataset.split=train dataset.column=prompt dataset.add_eos=false "
    "batch_size={0} num_steps={1} ppo_epochs=1 ppo_batch_size={0} gradient_accumulation_steps=1 forward_batch_size={0} "
    "optimizer.lr=3e-6 optimizer_in_bwd=true enable_activation_checkpointing=true enable_kv_cache=true "
    "max_generated_tokens=58 temperature=0.7 top_k=null min_response_length=18 penalise_no_eos=true reward_penalty=-3 "
    "whiten_rewards=false gamma=1 lmbda=0.95 kl_coeff=0.01 loss._component_=torchtune.rlhf.loss.PPOLoss loss.epsilon=0.2 "
    "loss.value_coeff=0.1 loss.value_clip_range=0.2 log_peak_memory_stats=true "
    "profiler._component_=torchtune.training.setup_torch_profiler profiler.enabled=false "
    "profiler.output_dir=${{output_dir}}/profiling_outputs profiler.cpu=true profiler.cuda=true profiler.profile_memory=true "
    "profiler.with_stack=false profiler.record_shapes=false profiler.with_flops=false profiler.wait_steps=5 "
    "profiler.warmup_steps=3 profiler.active_steps=3 profiler.num_cycles=1"
)
_TINY = (
    "{0}.vocab_size=32000 {0}.num_layers=22 {0}.num_heads=32 {0}.num_kv_heads=4 {0}.embed_dim=2048 {0}.max_seq_len=2048 "
    "{0}.intermediate_dim=5632 {0}.attn_dropout=0.0 {0}.norm_eps=1e-5"
)
_TINY_LLAMA = (
    f"policy_model._component_=torchtune.models.llama2.{{0}}llama2 {_TINY.format('policy_model')} "
    "reward_and_value_model._component_=torchtune.models.llama2.llama2_classifier reward_and_value_model.num_classes=1 "
    f"{_TINY.format('reward_and_value_model')} tokenizer.path=/tmp/TinyLlama_v1.1/tokenizer.model "
    "checkpointer.checkpoint_dir=/tmp/TinyLlama_v1.1/ checkpointer.checkpoint_files=[pytorch_model.bin] "
    "checkpointer.output_dir=${{output_dir}}/policy stop_token_ids=[2,29889]"
)
_LORA_OF_TINY = (
    "policy_model.lora_attn_modules=[q_proj,v_proj,output_proj] policy_model.lora_rank=16 policy_model.lora_alpha=32 "
    "optimizer.lr=1e-4 optimizer_in_bwd=false save_adapter_weights_only=false"
)
_MISTRAL = (
    "policy_model._component_=torchtune.models.mistral.mistral_7b "
    "reward_and_value_model._component_=torchtune.modules.classifier_model "
    "reward_and_value_model.base_model_path=torchtune.models.mistral.mistral reward_and_value_model.num_classes=1 "
    "reward_and_value_model.vocab_size=32001 reward_and_value_model.num_layers=32 reward_and_value_model.num_heads=32 "
    "reward_and_value_model.num_kv_heads=8 reward_and_value_model.attn_dropout=0.0 reward_and_value_model.embed_dim=4096 "
    "reward_and_value_model.intermediate_dim=14336 reward_and_value_model.max_seq_len=32768 "
    "reward_and_value_model.norm_eps=1e-05 tokenizer.path=/tmp/Mistral-7B-Instruct-v0.2/tokenizer.model "
    "checkpointer.checkpoint_dir=/tmp/Mistral-7B-Instruct-v0.2/ "
    "checkpointer.checkpoint_files=[pytorch_model-00001-of-00003.bin,pytorch_model-00002-of-00003.bin,pytorch_model-00003-of-00003.bin] "
    f"stop_token_ids=[2,28723] compile=true {_SCHEDULE} lr_scheduler.num_warmup_steps=100"
)

_GRPO = (
    "resume_from_checkpoint=false save_every_n_epochs=1 shuffle=false batch_size=1 grpo_samples=16 forward_batch_size=1 "
    "max_generated_tokens=512 top_k=null temperature=1.0 ppo_epochs=1 num_steps=200 epochs=10 clip_grad_norm=1.0 "
    f"optimizer.lr=1e-5 optimizer.fused=true {_SCHEDULE} lr_scheduler.num_warmup_steps=50 compile=false "
    "enable_activation_checkpointing=true log_peak_memory_stats=true"
)
_MATHS = (
    "dataset._component_=torchtune.dev.grpo.gsm8k.gsm8k_dataset dataset.partition=1-9/10 "
    "loss._component_=torchtune.dev.grpo.loss.GRPOSimpleLoss loss.kl_coeff=0.01 loss.epsilon=0.2 "
    "checkpointer.checkpoint_dir=${base_model_path} "
    "checkpointer.checkpoint_files=[model-00001-of-00002.safetensors,model-00002-of-00002.safetensors] "
    "profiler._component_=torchtune.training.setup_torch_profiler profiler.enabled=true "
    "profiler.output_dir=${output_dir}/profiling_outputs profiler.cpu=true profiler.cuda=true profiler.profile_memory=true "
    "profiler.with_stack=true profiler.record_shapes=true profiler.with_flops=false profiler.wait_steps=5 "
    "profiler.warmup_steps=3 profiler.active_steps=2 profiler.num_cycles=1"
)
_GSM8K_3B = "tokenizer.path=/tmp/Llama-3.2-3B/original/tokenizer.model checkpointer.model_type=LLAMA3"
_SFT = (
    "dataset._component_=torchtune.dev.grpo.gsm8k.gsm8k_sft dataset.partition=0-0/10 batch_size=2 epochs=1 optimizer.lr=1e-5 "
    "loss._component_=torchtune.modules.loss.LinearCrossEntropyLoss max_steps_per_epoch=null clip_grad_norm=null "
    "optimizer_in_bwd=false gradient_accumulation_steps=1 enable_activation_checkpointing=true "
    "enable_activation_offloading=false profiler._component_=torchtune.training.setup_torch_profiler profiler.enabled=false "
    "profiler.output_dir=${output_dir}/profiling_outputs profiler.cpu=true profiler.cuda=true profiler.profile_memory=false "
    "profiler.with_stack=false profiler.record_shapes=true profiler.with_flops=false profiler.wait_steps=5 "
    "profiler.warmup_steps=3 profiler.active_steps=2 profiler.num_cycles=1"
)
_TOOLS = (
    "train_file=./train.jsonl test_file=./test.jsonl dataset._component_=torchtune.rlhf.prompt_dataset dataset.source=json "
    "dataset.data_files=${train_file} tools._component_=torchtune.rlhf.tools.Toolbox tools.functions=[my_tools.search] "
    "tools.timeout_s=10 max_tool_calls=4 batch_size=8 grpo_samples=8 forward_batch_size=4 max_generated_tokens=256 shuffle=true "
    "optimizer.lr=1e-5 tokenizer.max_seq_len=null loss._component_=torchtune.rlhf.loss.GroupPolicyLoss loss.epsilon=0.2 "
    "loss.epsilon_high=0.28 loss.normalize=token loss.kl_coeff=0.0 scale_rewards=group epochs=1 num_steps=null "
    "save_adapter_weights_only=false lr_scheduler.num_warmup_steps=10 "
    "eval_tool_calls.dataset._component_=torchtune.datasets.tool_eval_dataset eval_tool_calls.dataset.source=json "
    "eval_tool_calls.dataset.data_files=${test_file} eval_tool_calls.dataset.style=openai eval_tool_calls.every_n_steps=50 "
    "eval_tool_calls.max_new_tokens=256 eval_tool_calls.batch_size=8"
)
_TAGS = "torchtune.dev.grpo.rewards"
_REWARDS = {
    "dev/qwen3B_sync_grpo": [
        {"_component_": f"{_TAGS}.{name}", **tags, "positive_reward": reward, "negative_reward": 0.0}
        for name, tags, reward in (
            ("FormattedMathCorrectnessReward", {"answer_tag": "answer"}, 10.0),
            ("ThinkingAnswerFormattingReward", {"think_tag": "think", "answer_tag": "answer"}, 1.0),
        )
    ]
}
_TOOL_REWARDS = [
    {"_component_": f"torchtune.rlhf.tools.{name}", "weight": weight}
    for name, weight in (
        ("CallNameReward", 0.3),
        ("CallArgumentsReward", 0.7),
        ("OutcomeReward", 1.0),
        ("FormatReward", 0.2),
    )
]

_GRPO_MANY = "dev/grpo_full_finetune_distributed"
_DPO_ONE, _DPO_MANY = "lora_dpo_single_device", "lora_dpo_distributed"
# the frozen model and the reward model of each config: their keys, the folder, the files
_REWARD_MODELS = {
    "mistral": ("/tmp/RM-Mistral-7B/", [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]),
    "llama2": ("/tmp/tinyllama_rm_sentiment_1b/", ["model.safetensors"]),
}

#: Each a row of its recipe.
ROWS = (
    *(
        Variant(f"{name}_lora_dpo{one}", f"{name}_lora_single_device", recipe, settings)
        for one, recipe in (("_single_device", _DPO_ONE), ("", _DPO_MANY))
        for name, settings in (
            ("llama2/7B", _LORA_DPO + (f" {_PLAIN_DPO}" if one else "")),
            ("llama3_1/8B", _LORA_DPO + (f" {_PLAIN_DPO}" if one else "")),
        )
    ),
    Variant("llama3_1/8B_full_dpo", "llama3_1/8B_full", "full_dpo_distributed", _FULL_DPO),
    Variant("llama3_2/1B_full_dpo_single_device", "llama3_2/1B_full", "full_dpo_single_device", _FULL_DPO),
    Variant(
        "mistral/7B_full_ppo_low_memory",
        "mistral/7B_full_low_memory",
        "ppo_full_finetune_single_device",
        f"{_PPO.format(128, 10000)} {_MISTRAL}",
        repo="mistralai/Mistral-7B-Instruct-v0.2",
    ),
    Variant(
        "llama2/1B_full_ppo_low_memory_single_device",
        "llama2/7B_full_low_memory",
        "ppo_full_finetune_single_device",
        f"{_PPO.format(16, 1000)} optimizer._component_=torch.optim.AdamW {_TINY_LLAMA.format('')}",
        output="/tmp/torchtune/llama2_1B_full_ppo_low_memory",
        repo="TinyLlama/TinyLlama_v1.1",
    ),
    Variant(
        "llama2/1B_lora_ppo_single_device",
        "llama2/7B_full_low_memory",
        "ppo_lora_finetune_single_device",
        f"{_PPO.format(16, 1000)} optimizer._component_=torch.optim.AdamW {_TINY_LLAMA.format('lora_')} "
        f"{_LORA_OF_TINY}",
        output="/tmp/torchtune/llama2_1B/lora_ppo_single_device",
        repo="TinyLlama/TinyLlama_v1.1",
    ),
    Variant(
        "dev/3B_grpo_sft",
        "llama3_2/3B_full",
        "full_finetune_distributed",
        f"{_SFT} {_GSM8K_3B} name=llama3B_gsm8k_sft_part0 checkpointer.checkpoint_dir=/tmp/Llama-3.2-3B/",
        output="/tmp/${name}",
        repo="meta-llama/Llama-3.2-3B",
    ),
    Variant(
        "dev/3B_full_grpo",
        "llama3_2/3B_full",
        _GRPO_MANY,
        f"{_GRPO} {_MATHS} name=grpo_llama3b base_model_path=/tmp/llama3B_gsm8k_sft_part0/epoch_0 {_GSM8K_3B}",
        output="/tmp/checkpoints/${name}",
        repo="meta-llama/Llama-3.2-3B",
    ),
    Variant(
        "dev/qwen3B_sync_grpo",
        "qwen2_5/3B_full",
        _GRPO_MANY,
        f"{_GRPO} {_MATHS} name=grpo_sync_qwen3b base_model_path=/tmp/Qwen2.5-3B tokenizer.path=/tmp/Qwen2.5-3B/vocab.json "
        "tokenizer.merges_file=/tmp/Qwen2.5-3B/merges.txt tokenizer.max_seq_len=1024 -log_level "
        "metric_logger._component_=torchtune.training.metric_logging.WandBLogger",
        output="/tmp/checkpoints/${name}",
        repo="Qwen/Qwen2.5-3B",
    ),
    Variant(
        "qwen2_5/1.5B_lora_grpo_tool_calling",
        "qwen2_5/1.5B_lora_single_device",
        "dev/grpo_lora_finetune_single_device",
        f"{_GRPO} {_TOOLS}",
    ),
    Variant(
        "qwen2_5/7B_lora_grpo_tool_calling",
        "qwen2_5/7B_lora_single_device",
        "dev/grpo_lora_finetune_distributed",
        f"{_GRPO} {_TOOLS}",
    ),
)
_YOUR_ROWS, _TOOL_EVAL = (
    next(section for section in SECTIONS if key in section[1]) for key in ("train_file", "eval_tool_calls")
)
_SECTIONS = (
    ("", ("name", "output_dir", "base_model_path")),
    _YOUR_ROWS,
    ("", ("model", "policy_model")),
    (
        "One builder for two models: the reward model stays as it is, the value model is trained",
        ("reward_and_value_model",),
    ),
    ("", ("tokenizer",)),
    ("", ("checkpointer", "resume_from_checkpoint", "save_adapter_weights_only", "save_every_n_epochs")),
    ("The model as it is before training: the policy is held to it", ("ref_checkpointer", "ref_policy_checkpointer")),
    ("", ("value_checkpointer", "reward_checkpointer")),
    ("", ("dataset", "seed", "shuffle")),
    (
        "Functions, or an environment: their signatures and docstrings are what the model sees",
        ("tools", "max_tool_calls"),
    ),
    ("Each adds to the reward of an answer", ("reward_functions", "scale_rewards")),
    _TOOL_EVAL,
    ("Answers to each prompt, and how they are sampled", ("batch_size", "grpo_samples", "num_steps", "epochs")),
    ("", ("max_generated_tokens", "temperature", "top_k", "stop_token_ids", "enable_kv_cache")),
    ("", ("ppo_epochs", "ppo_batch_size", "forward_batch_size", "gradient_accumulation_steps", "max_steps_per_epoch")),
    ("", ("min_response_length", "penalise_no_eos", "reward_penalty", "whiten_rewards", "gamma", "lmbda", "kl_coeff")),
    ("", ("optimizer", "optimizer_in_bwd", "lr_scheduler", "loss", "clip_grad_norm")),
    ("", ("device", "dtype", "compile", "enable_activation_checkpointing", "enable_activation_offloading")),
    ("", ("metric_logger", "log_every_n_steps", "log_peak_memory_stats", "log_level")),
    ("", ("profiler",)),
)


def _values(row: Variant) -> dict[str, Any]:
    """The values of a row's config."""
    values = {key: value for key, value in variant_values(replace(row, settings="")).items() if key in _SHARED}
    apply(values, row.settings)
    recipe = row.recipe
    if "tools" in values:
        values["reward_functions"] = _TOOL_REWARDS
    elif row.name in _REWARDS:
        values["reward_functions"] = _REWARDS[row.name]
    if recipe.startswith(("full_dpo", _GRPO_MANY)):
        values["ref_checkpointer"] = dict(values["checkpointer"])
        if recipe == _GRPO_MANY:
            values["ref_checkpointer"]["output_dir"] = "${output_dir}/ref"
    if recipe.startswith("ppo"):
        folder, files = _REWARD_MODELS[row.base.split("/")[0]]
        reward = {
            "_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": folder,
            "checkpoint_files": files, "output_dir": "${output_dir}/value", "model_type": "REWARD",
        }  # fmt: skip
        values |= {"value_checkpointer": reward, "reward_checkpointer": reward}
        if "lora" not in recipe:
            reference = {**values["checkpointer"], "output_dir": "${output_dir}/policy"}
            if row.base.startswith("mistral"):
                del reference["recipe_checkpoint"]
            values["ref_policy_checkpointer"] = reference
    values["output_dir"] = row.output or values["output_dir"]
    return values


def preference_configs(waiting: frozenset[str]) -> dict[str, tuple[str, str]]:
    """Recipe and text of each config, by name, but for families that wait."""
    configs = {}
    for row in ROWS:
        checkpoint = find_checkpoint(row.base.partition("_full")[0].partition("_lora")[0])
        if checkpoint.name.split("/")[0] in waiting:
            continue
        values = _values(row)
        run = run_line(row.name, (row.recipe,), checkpoint.processes, values)
        header = (f"Weights: {download(checkpoint, row.repo)}", run)
        configs[row.name] = (row.recipe, render_values(header, _SECTIONS, values))
    return configs
