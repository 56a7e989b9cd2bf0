"""Configs that are another one with a few settings more: quantization-aware, distilled, early exits, several datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recipes.catalog._render import SECTIONS, download, render_values, run_line
from recipes.catalog._values import apply, config_values
from recipes.catalog.checkpoints import CHECKPOINTS, Checkpoint, find_checkpoint
from recipes.catalog.methods import METHODS, Method

_QAT = "quantizer._component_=torchtune.training.quantization.Int8DynActInt4WeightQATQuantizer quantizer.groupsize=256"
_KD = (
    "loss._component_=torchtune.modules.loss.CEWithChunkedOutputLoss "
    "kd_loss._component_=torchtune.modules.loss.ForwardKLWithChunkedOutputLoss kd_ratio=0.5 "
    "teacher_checkpointer._component_=torchtune.training.FullModelHFCheckpointer "
    "teacher_checkpointer.recipe_checkpoint=null teacher_checkpointer.output_dir=${output_dir}"
)
_KD_MANY = "-clip_grad_norm log_peak_memory_stats=false profiler.warmup_steps=5"
_KD_LLAMA = "model.apply_lora_to_output=false"
_KD_QWEN2 = (
    "model.lora_rank=32 model.lora_alpha=64 -model.lora_dropout -optimizer.fused batch_size=8 "
    "enable_activation_checkpointing=false clip_grad_norm=null optimizer.lr=3e-4 optimizer.weight_decay=0.01 "
    "gradient_accumulation_steps=8"
)
_KD_QWEN = "model.lora_rank=64 model.lora_alpha=128 batch_size=2 log_every_n_steps=2 save_adapter_weights_only=false"
_EARLY_EXIT = (
    "-dataset dataset._component_=torchtune.datasets.instruct_dataset dataset.source=WillHeld/top_v2 dataset.split=train "
    "dataset.column_map.input=utterance dataset.column_map.output=semantic_parse batch_size=8 "
    "loss._component_=torch.nn.CrossEntropyLoss -dataset_val -batch_size_val -run_val_every_n_steps "
    "early_exit_loss.layers=0::4 "
    "early_exit_loss.curriculum=torchtune.modules.early_exit_loss.RotationalEarlyExitCurriculum "
    "early_exit_loss.scale_fn=torchtune.modules.early_exit_loss.sum_l_loss_scale early_exit_loss.scale=1.0 "
    "layer_dropout.prob=0.2 layer_dropout.layers=':' layer_dropout.layers_scale=exp layer_dropout.disable_on_eval=true"
)
_TINY_LLAMA = (
    "model._component_=torchtune.models.llama2.llama2 model.vocab_size=32000 model.num_layers=22 model.num_heads=32 "
    "model.num_kv_heads=4 model.embed_dim=2048 model.max_seq_len=2048 model.norm_eps=1e-5 model.attn_dropout=0.0 "
    "tokenizer.path=/tmp/TinyLlama_v1.1/tokenizer.model tokenizer.max_seq_len=2048 "
    "checkpointer.checkpoint_dir=/tmp/TinyLlama_v1.1/ checkpointer.checkpoint_files=[pytorch_model.bin] "
    "dataset._component_=torchtune.datasets.alpaca_cleaned_dataset batch_size=1 optimizer.lr=5e-6 -lr_scheduler "
    "enable_activation_offloading=false log_peak_memory_stats=false"
)
_EXPERIMENTAL = (
    "-dataset_val -batch_size_val -run_val_every_n_steps -dataset.split -custom_sharded_layers -clip_grad_norm "
    "-optimizer_in_bwd dataset._component_=torchtune.datasets.alpaca_dataset ac_mode=selective ac_option=2 "
    "memory_efficient_fsdp_wrap=false "
    "enable_activation_checkpointing=false log_every_n_steps=null tokenizer.path=/tmp/Meta-Llama-3-8B/original/tokenizer.model "
    "checkpointer._component_=torchtune.training.FullModelMetaCheckpointer "
    "checkpointer.checkpoint_dir=/tmp/Meta-Llama-3-8B/original/ checkpointer.checkpoint_files=[consolidated.00.pth]"
)
_MIXED = (
    "-dataset -collate_fn -shuffle -dataset_val -batch_size_val -run_val_every_n_steps -profiler max_steps_per_epoch=50 "
    "model.lora_attn_modules=[q_proj,v_proj] model.apply_lora_to_mlp=false batch_size=4 compile=true gradient_accumulation_steps=1 dataloader.shuffle=true "
    "dataloader.collate_fn=torchtune.data.padded_collate_tiled_images_and_mask dataloader.parallel_method=thread "
    "dataloader.num_workers=4 dataloader.pin_memory=true dataloader.packed=false dataloader.prefetch_factor=2"
)
_QAT_ONE, _QAT_MANY, _QAT_LORA = "qat_single_device", "qat_distributed", "qat_lora_finetune_distributed"
_KD_ONE, _KD_DISTRIBUTED = "knowledge_distillation_single_device", "knowledge_distillation_distributed"


@dataclass(frozen=True)
class Variant:
    """A config that is made of another.

    Args:
        name: the config's name.
        base: the name of the other.
        recipe: the recipe that lists it.
        settings: what differs.
        output: the ``output_dir``, default that of its checkpoint.
        teacher: the checkpoint of the model to learn from.
        repo: another repository than that of the base's checkpoint.
    """

    name: str
    base: str
    recipe: str
    settings: str
    output: str = ""
    teacher: str = ""
    repo: str = ""


def _qat(checkpoint: str, lora: bool = False, settings: str = "") -> Variant:
    base, recipe = ("lora", _QAT_LORA) if lora else ("full", _QAT_MANY)
    return Variant(f"{checkpoint}_qat_{base}", f"{checkpoint}_{base}", recipe, f"{_QAT} {settings}")


def _files(shards: int) -> str:
    """The files of weights as a pattern."""
    return (
        "-checkpointer.checkpoint_files checkpointer.checkpoint_files.filename_format=model-{}-of-{}.safetensors "
        f"checkpointer.checkpoint_files.max_filename='{shards:05d}'"
    )


_NO_VALIDATION = "-dataset_val -batch_size_val -run_val_every_n_steps"
_WHOLE = f"{_NO_VALIDATION} -dataset.split"

VARIANTS = (
    Variant("qwen2_5/3B_qat_single_device", "qwen2_5/3B_full_single_device", _QAT_ONE, _QAT),
    Variant(
        "qwen2_5/1.5B_qat_single_device",
        "qwen2_5/1.5B_full_single_device",
        _QAT_ONE,
        f"{_QAT} batch_size=1 optimizer.lr=5e-6 log_peak_memory_stats=false",
    ),
    Variant(
        "llama2/1B_qat_single_device",
        "llama2/7B_full_low_memory",
        _QAT_ONE,
        f"{_QAT} {_TINY_LLAMA}",
        output="/tmp/torchtune/llama1b/qat_single_device",
        repo="TinyLlama/TinyLlama_v1.1",
    ),
    *(_qat(checkpoint) for checkpoint in ("llama2/7B", "llama3/8B", "llama3_1/8B", "llama3_2/3B")),
    *(_qat(f"qwen3/{size}") for size in ("0.6B", "1.7B", "4B", "8B")),
    *(_qat(checkpoint, True, _WHOLE) for checkpoint in ("llama3/8B", "llama3_1/8B")),
    *(_qat(checkpoint, True, _NO_VALIDATION) for checkpoint in ("llama3_2/1B", "llama3_2/3B")),
    *(_qat(f"qwen3/{size}", True) for size in ("0.6B", "1.7B", "4B", "8B", "32B")),
    Variant(
        "qwen2/1.5_to_0.5B_KD_lora_single_device",
        "qwen2/0.5B_lora_single_device",
        _KD_ONE,
        f"{_KD} {_KD_QWEN2} profiler.warmup_steps=3",
        output="/tmp/torchtune/qwen2_1_5_to_0_5B/KD_lora_single_device",
        teacher="qwen2/1.5B",
    ),
    Variant(
        "qwen2/1.5_to_0.5B_KD_lora_distributed",
        "qwen2/0.5B_lora_single_device",
        _KD_DISTRIBUTED,
        f"{_KD} {_KD_QWEN2} {_KD_MANY}",
        output="/tmp/torchtune/qwen2_1_5_to_0_5B/KD_lora_distributed",
        teacher="qwen2/1.5B",
    ),
    Variant(
        "llama3_2/8B_to_1B_KD_lora_single_device",
        "llama3_2/1B_lora_single_device",
        _KD_ONE,
        f"{_KD} {_KD_LLAMA}",
        output="/tmp/torchtune/llama3_2_8B_to_1B/KD_lora_single_device",
        teacher="llama3_1/8B",
    ),
    Variant(
        "llama3_2/8B_to_1B_KD_lora_distributed",
        "llama3_2/1B_lora_single_device",
        _KD_DISTRIBUTED,
        f"{_KD} {_KD_LLAMA} {_KD_MANY}",
        output="/tmp/torchtune/llama3_2_8B_to_1B/KD_lora_distributed",
        teacher="llama3_1/8B",
    ),
    Variant(
        "qwen2_5/14B_to_7B_KD_lora_single_device",
        "qwen2_5/7B_lora_single_device",
        _KD_ONE,
        f"{_KD} {_KD_QWEN} {_files(4)} profiler.warmup_steps=3 log_peak_memory_stats=true epochs=5",
        output="/tmp/kd_7B",
        teacher="qwen2_5/14B",
    ),
    Variant(
        "qwen3/14B_to_8B_KD_lora_single_device",
        "qwen3/8B_lora_single_device",
        _KD_ONE,
        f"{_KD} {_KD_QWEN} {_files(5)} model._component_=torchtune.models.qwen3.lora_qwen3_8b_base -optimizer_in_bwd profiler.warmup_steps=3",
        output="/tmp/torchtune/qwen3_14B_to_8B/KD_lora_single_device",
        teacher="qwen3/14B",
    ),
    Variant(
        "llama2/7B_full_early_exit",
        "llama2/7B_full",
        "dev/early_exit_finetune_distributed",
        _EARLY_EXIT,
        output="/tmp/torchtune/llama2_7b/full_early_exit",
    ),
    Variant(
        "dev/8B_full_experimental",
        "llama3/8B_full",
        "full_finetune_distributed",
        _EXPERIMENTAL,
        output="/tmp/torchtune/dev_8B/full_experimental",
        repo="meta-llama/Meta-Llama-3-8B",
    ),
    Variant(
        "dev/11B_lora_multi_dataset",
        "llama3_2_vision/11B_lora",
        "dev/lora_finetune_distributed_multi_dataset",
        _MIXED,
        output="/tmp/torchtune/llama3_2_vision_11B/lora_multi_dataset",
    ),
)


def variant_values(variant: Variant) -> dict[str, Any]:
    """The values of a variant's config."""
    checkpoint, method = _base(variant)
    values = config_values(checkpoint, method)
    if variant.teacher:
        teacher = find_checkpoint(variant.teacher)
        values["teacher_model"] = {"_component_": f"torchtune.models.{teacher.family.module}.{teacher.builder}"}
        values["teacher_checkpointer"] = {
            "_component_": "",
            "checkpoint_dir": teacher.folder,
            "checkpoint_files": teacher.weights,
            "model_type": teacher.family.model_type,
        }
    if variant.name == "dev/11B_lora_multi_dataset":
        transform = {"_component_": "torchtune.datasets.multimodal.the_cauldron_transform"}
        values["datasets"] = [
            {
                "source": "HuggingFaceM4/the_cauldron",
                "subset": s,
                "split": "train",
                "transform": transform,
                "weight": 1.0,
            }
            for s in ("ocrvqa", "dvqa", "docvqa", "tabmwp")
        ]
    apply(values, variant.settings)
    method_name = variant.name.removeprefix(f"{checkpoint.name}_")
    values["output_dir"] = variant.output or f"{checkpoint.output}{method_name}"
    return values


def _base(variant: Variant) -> tuple[Checkpoint, Method]:
    """The checkpoint and the method of the config that a variant is made of."""
    for checkpoint in CHECKPOINTS:
        method = variant.base.removeprefix(f"{checkpoint.name}_")
        if method != variant.base and method in METHODS:
            return checkpoint, METHODS[method]
    raise ValueError(f"{variant.name}: there is no config {variant.base}")


def variant_configs(waiting: frozenset[str]) -> dict[str, tuple[str, str]]:
    """Recipe and text of each variant, by name, but for families that wait."""
    configs = {}
    for variant in VARIANTS:
        checkpoint, _ = _base(variant)
        if checkpoint.name.split("/")[0] in waiting:
            continue
        teacher = [find_checkpoint(variant.teacher)] if variant.teacher else []
        weights = "  and  ".join(download(c, variant.repo) for c in (checkpoint, *teacher))
        values = variant_values(variant)
        run = run_line(variant.name, (variant.recipe,), checkpoint.processes, values)
        configs[variant.name] = (variant.recipe, render_values((f"Weights: {weights}", run), SECTIONS, values))
    return configs
