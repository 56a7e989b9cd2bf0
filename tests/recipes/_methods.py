"""What the methods of the finetune recipe add to the quickstart's configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _tiny import ASSETS, tiny_config

FULL, LORA = "quickstart/tool_calling", "quickstart/tool_calling_lora"
QAT = "torchtune.training.quantization.Int8DynActInt4WeightQATQuantizer"
LOSSES = "torchtune.modules.loss"
EXITS = "torchtune.modules.early_exit_loss"
ROWS = {
    "source": "json",
    "split": "train",
    "data_files": f"{ASSETS}/data/train.jsonl",
    "transform": {"_component_": "torchtune.data.OpenAIToMessages"},
    "weight": 1.0,
}


def teacher(cfg: Any) -> dict[str, Any]:
    """The quickstart's own model as the teacher."""
    base = tiny_config(Path("unused"))
    return {
        "teacher_model": base.model,
        "teacher_checkpointer": {**base.checkpointer, "checkpoint_dir": f"{ASSETS}/model", "output_dir": str(cfg)},
        "loss": {"_component_": f"{LOSSES}.CEWithChunkedOutputLoss"},
        "kd_loss": {"_component_": f"{LOSSES}.ForwardKLWithChunkedOutputLoss"},
        "kd_ratio": 0.5,
    }


METHODS: dict[str, tuple[str, Any]] = {
    "qat": (FULL, {"quantizer": {"_component_": QAT, "groupsize": 32}, "fake_quant_after_n_steps": 2}),
    "qat_lora": (
        LORA,
        {"quantizer": {"_component_": QAT, "groupsize": 32}, "model__lora_attn_modules": ["output_proj"]},
    ),
    "distillation": (LORA, teacher),
    "early_exit": (
        FULL,
        {
            "early_exit_loss": {
                "layers": "0::2",
                "curriculum": f"{EXITS}.RotationalEarlyExitCurriculum",
                "scale_fn": f"{EXITS}.sum_l_loss_scale",
                "scale": 1.0,
            },
            "layer_dropout": {"prob": 0.4, "layers": ":", "layers_scale": "exp", "disable_on_eval": True},
            "enable_activation_checkpointing": True,
        },
    ),
    "several_datasets": (
        LORA,
        {
            "dataset": None,
            "datasets": [ROWS, {**ROWS, "data_files": f"{ASSETS}/data/test.jsonl", "weight": 0.5}],
            "dataloader": {
                "shuffle": True,
                "collate_fn": "torchtune.data.padded_collate_sft",
                "parallel_method": "thread",
                "num_workers": 4,
                "pin_memory": False,
                "packed": False,
                "prefetch_factor": 2,
            },
        },
    ),
}
