"""Methods of the finetune recipe besides full and LoRA: quantization-aware, distilled, early exits, several datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _tiny import ASSETS, finetune, tiny_config

pytestmark = pytest.mark.recipes

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


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_with_the_same_losses(method: str, tmp_path: Path) -> None:
    base, settings = METHODS[method]
    if callable(settings):
        settings = settings(tmp_path)
    settings = {**settings, "save_every_n_steps": 1}
    whole = finetune(tiny_config(tmp_path / "whole", base, **settings))
    assert [row["step"] for row in whole] == [1, 2, 3, 4]
    assert whole[-1]["loss"] != whole[0]["loss"]
    cut = tmp_path / "cut"
    finetune(tiny_config(cut, base, **settings), until=3)
    rest = finetune(tiny_config(cut, base, **settings, resume_from_checkpoint=True))
    assert [(row["step"], row["loss"]) for row in rest] == [(row["step"], row["loss"]) for row in whole[3:]]
