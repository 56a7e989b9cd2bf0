"""Methods of the finetune recipe besides full and LoRA: quantization-aware, distilled, early exits, several datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _tiny import ASSETS, finetune, in_processes, tiny_config

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


EVALUATION = {
    "dataset_val": {
        "_component_": "torchtune.datasets.chat_dataset",
        "source": "json",
        "data_files": f"{ASSETS}/data/test.jsonl",
        "conversation_column": "messages",
        "conversation_style": "openai",
        "split": "train[:4]",
    },
    "run_val_every_n_steps": 2,
    "eval_tool_calls": {
        "dataset": {
            "_component_": "torchtune.datasets.tool_eval_dataset",
            "source": "json",
            "data_files": f"{ASSETS}/data/test.jsonl",
            "style": "openai",
            "max_cases": 2,
        },
        "max_new_tokens": 4,
        "batch_size": 2,
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_with_the_same_losses(method: str, tmp_path: Path) -> None:
    base, settings = METHODS[method]
    if callable(settings):
        settings = settings(tmp_path)
    settings = {**settings, "save_every_n_steps": 1}
    logged = finetune(tiny_config(tmp_path / "whole", base, **settings, **EVALUATION))
    whole = [row for row in logged if "loss" in row]
    assert [row["step"] for row in whole] == [1, 2, 3, 4]
    assert whole[-1]["loss"] != whole[0]["loss"]
    assert {row["step"] for row in logged if "val_loss" in row} == {2, 4}
    assert {row["step"] for row in logged if "tool_eval/accuracy" in row} == {0, 4}
    cut = tmp_path / "cut"
    finetune(tiny_config(cut, base, **settings), until=3)
    rest = finetune(tiny_config(cut, base, **settings, resume_from_checkpoint=True))
    assert [(row["step"], row["loss"]) for row in rest] == [(row["step"], row["loss"]) for row in whole[3:]]


def test_distillation_logs_both_losses_and_weighs_them(tmp_path: Path) -> None:
    settings = {**teacher(tmp_path), "kd_ratio": 0.25, "max_steps_per_epoch": 1, "epochs": 1}
    (row,) = finetune(tiny_config(tmp_path / "out", LORA, **settings))
    assert row["loss"] == pytest.approx(0.75 * row["class_loss"] + 0.25 * row["kd_loss"], rel=1e-5)
    # A teacher that is the student itself: the cross entropy under its own distribution is that distribution's entropy.
    assert 0 < row["kd_loss"] < row["class_loss"]


@pytest.mark.parametrize("loss", ["LinearCrossEntropyLoss", "CEWithChunkedOutputLoss"])
def test_distillation_is_the_same_with_any_loss(loss: str, tmp_path: Path) -> None:
    settings = {**teacher(tmp_path), "loss": {"_component_": f"{LOSSES}.{loss}"}, "max_steps_per_epoch": 1, "epochs": 1}
    (row,) = finetune(tiny_config(tmp_path / "out", LORA, **settings))
    plain = {
        "loss": {"_component_": "torch.nn.CrossEntropyLoss"},
        "kd_loss": {"_component_": f"{LOSSES}.ForwardKLLoss"},
    }
    (whole,) = finetune(tiny_config(tmp_path / "whole", LORA, **{**settings, **plain}))
    assert row["loss"] == pytest.approx(whole["loss"], rel=1e-5)


def test_late_rounding_begins_where_it_is_asked_to(tmp_path: Path) -> None:
    base = {"max_steps_per_epoch": 3, "epochs": 1}
    qat = {"quantizer": {"_component_": QAT, "groupsize": 32}}
    plain, early, late = (
        [row["loss"] for row in finetune(tiny_config(tmp_path / name, FULL, **base, **settings))]
        for name, settings in (("plain", {}), ("early", qat), ("late", {**qat, "fake_quant_after_n_steps": 1}))
    )
    assert late[0] == plain[0] != early[0]
    assert late[1] != plain[1]


def test_a_saved_qat_model_has_the_keys_of_the_plain_one(tmp_path: Path) -> None:
    from safetensors import safe_open

    finetune(tiny_config(tmp_path, FULL, quantizer={"_component_": QAT, "groupsize": 32}, epochs=1))
    keys = []
    for folder in (tmp_path / "epoch_0", ASSETS / "model"):
        with safe_open(next(folder.glob("model*.safetensors")), "pt") as file:
            keys.append(set(file.keys()))
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantizer": {"_component_": QAT, "groupsize": 160}}, "smaller quantizer.groupsize"),
        (
            {"quantizer": {"_component_": "torchtune.training.quantization.Int8DynActInt4WeightQuantizer"}},
            "is not one for training",
        ),
        ({"kd_ratio": 2.0}, "kd_ratio is 2.0"),
        ({"kd_loss": {"_component_": f"{LOSSES}.ForwardKLLoss"}}, "must both take logits in pieces"),
        ({"datasets": [{"source": "json"}]}, r"datasets\[0\] needs source and transform"),
    ],
    ids=["group-size", "quantizer", "ratio", "pieces", "datasets"],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    if any(key.startswith("kd_") for key in settings):
        settings = {**teacher(tmp_path), **settings}
    with pytest.raises(ValueError, match=message):
        finetune(tiny_config(tmp_path / "out", LORA if "kd_loss" in settings else FULL, **settings))


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_an_eager_one(tmp_path: Path) -> None:
    settings = {"max_steps_per_epoch": 2, "epochs": 1, "dataset__packed": True}  # one shape, one compilation
    eager = finetune(tiny_config(tmp_path / "eager", FULL, **settings))
    compiled = finetune(tiny_config(tmp_path / "compiled", FULL, **settings, compile=True))
    assert len(compiled) == 2
    assert [row["loss"] for row in compiled] == pytest.approx([row["loss"] for row in eager], abs=1e-4)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("method", ["qat", "qat_lora", "distillation", "early_exit"])
def test_two_processes_have_the_losses_of_one(method: str, tmp_path: Path) -> None:
    base, settings = METHODS[method]
    settings = settings(tmp_path) if callable(settings) else settings
    if "layer_dropout" in settings:  # which samples are skipped depends on the batch
        settings = {key: value for key, value in settings.items() if key != "layer_dropout"}
    one = finetune(tiny_config(tmp_path / "one", base, **settings, batch_size=4))
    two = in_processes(tiny_config(tmp_path / "two", base, **settings, batch_size=2))
    # Rounding turns a difference in the last digit into one of a whole step of the quantized weight.
    close = {"qat": 5e-2, "qat_lora": 1e-2}.get(method, 1e-4)
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=close)
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_skip_the_same_layers(tmp_path: Path) -> None:
    _, settings = METHODS["early_exit"]
    dropout = {"prob": 0.9, "layers": ":", "layers_scale": "uniform"}
    rows = in_processes(tiny_config(tmp_path, FULL, **{**settings, "layer_dropout": dropout}, batch_size=1))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
