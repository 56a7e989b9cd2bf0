"""The finetune recipe with tensor and context parallel, in two and four processes: the losses of one, and resumes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from _runs import Run, logged

pytestmark = [pytest.mark.recipes, pytest.mark.slow, pytest.mark.distributed]

SHORT = [
    "epochs=1", "max_steps_per_epoch=4", "log_every_n_steps=1", "eval_tool_calls=null", "dataset_val=null",
    "optimizer.lr=5e-4", "save_every_n_steps=2",
]  # fmt: skip
CONFIG = "quickstart/tool_calling"


def assert_same(found: dict[int, str], expected: dict[int, str]) -> None:
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert float(found[step]) == pytest.approx(float(loss), abs=1e-4)


def test_tensor_parallel_trains_saves_and_resumes_as_one_process(run: Run, tmp_path: Path) -> None:
    run("full_finetune_single_device", CONFIG, *SHORT, "batch_size=4", f"output_dir={tmp_path}/one")
    one = logged(tmp_path / "one")
    assert len(one) == 4
    two = [*SHORT, "batch_size=4", "tensor_parallel_dim=2", f"output_dir={tmp_path}/two"]
    run("full_finetune_distributed", CONFIG, *two, processes=2)
    assert_same(logged(tmp_path / "two"), one)
    for written in ("epoch_0", "logs"):
        shutil.rmtree(tmp_path / "two" / written)
    four = [
        *SHORT,
        "batch_size=2",
        "tensor_parallel_dim=2",
        f"output_dir={tmp_path}/two",
        "resume_from_checkpoint=true",
    ]
    result = run("full_finetune_distributed", CONFIG, *four, processes=4)
    assert "Resumed at step 2 of 4" in result.stderr
    assert_same(logged(tmp_path / "two"), {step: loss for step, loss in one.items() if step > 2})


def test_context_parallel_and_steps_in_the_backward_pass_train_as_one_process(run: Run, tmp_path: Path) -> None:
    options = [*SHORT, "max_steps_per_epoch=2", "optimizer_in_bwd=true", "clip_grad_norm=null", "batch_size=2"]
    run("full_finetune_single_device", CONFIG, *options, f"output_dir={tmp_path}/one")
    settings = ["context_parallel_dim=2", "ac_mode=selective", "ac_option=2", "fsdp_cpu_offload=true"]
    run("full_finetune_distributed", CONFIG, *options, *settings, f"output_dir={tmp_path}/two", processes=2)
    assert_same(logged(tmp_path / "two"), logged(tmp_path / "one"))
