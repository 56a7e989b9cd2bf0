"""Methods of the finetune recipe besides full and LoRA: quantization-aware, distilled, early exits, several datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _methods import FULL, LORA, LOSSES, METHODS, QAT, teacher
from _tiny import ASSETS, finetune, in_processes, tiny_config

pytestmark = pytest.mark.recipes


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


@pytest.mark.parametrize(("optimizer", "in_backward"), [("AdamW8bit", False), ("AdamWFp8", True)])
def test_small_optimizer_states_are_saved_and_resumed(
    optimizer: str, in_backward: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # torchao compiles a step for each shape: minutes
    settings = {
        "optimizer": {"_component_": f"torchao.optim.{optimizer}", "lr": 1e-3},
        "save_every_n_steps": 1,
        "epochs": 1,
        "max_steps_per_epoch": 3,
        **({"optimizer_in_bwd": True, "clip_grad_norm": None} if in_backward else {}),
    }
    whole = finetune(tiny_config(tmp_path / "whole", FULL, **settings))
    cut = tmp_path / "cut"
    finetune(tiny_config(cut, FULL, **settings), until=2)
    rest = finetune(tiny_config(cut, FULL, **settings, resume_from_checkpoint=True))
    assert [(row["step"], row["loss"], row["lr"]) for row in rest] == [(3, whole[2]["loss"], whole[2]["lr"])]
    assert whole[0]["lr"] != whole[1]["lr"]
