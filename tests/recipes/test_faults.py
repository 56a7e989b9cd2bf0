"""What happens to a run of the finetune recipe when something goes wrong. The table is in docs/faults.md."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from _runs import ENV, Run, command, logged

pytestmark = [pytest.mark.recipes, pytest.mark.slow]

FULL = ("full_finetune_single_device", "quickstart/tool_calling")
SHORT = [
    "epochs=1", "max_steps_per_epoch=6", "batch_size=2", "log_every_n_steps=1", "eval_tool_calls=null", "dataset_val=null",
]  # fmt: skip
FAULTY = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def faulty_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENV, "PYTHONPATH", os.pathsep.join([FAULTY, *filter(None, [os.environ.get("PYTHONPATH")])]))


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in folder.glob("step_*"))


def test_sigterm_ends_with_a_checkpoint_and_exit_0_and_the_resumed_run_is_the_same(run: Run, tmp_path: Path) -> None:
    options = [*SHORT, "max_steps_per_epoch=10", "resume_from_checkpoint=auto"]
    arguments = command(*FULL, *options, f"output_dir={tmp_path}/cut")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, env=ENV, cwd=tmp_path, text=True) as process:
        while process.poll() is None and not list(tmp_path.glob("cut/logs/*")):
            time.sleep(0.05)
        while process.poll() is None and "Step 2 " not in next(tmp_path.glob("cut/logs/*")).read_text():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # schedulers and torchrun may both send one
        _, output = process.communicate(timeout=120)
    assert process.returncode == 0, output[-3000:]
    assert "SIGTERM: ending after this step, with a checkpoint" in output
    (stopped,) = steps(tmp_path / "cut")
    assert 2 <= stopped < 10
    assert not (tmp_path / "cut" / "epoch_0").exists()
    run(*FULL, *options, f"output_dir={tmp_path}/cut")
    run(*FULL, *options, f"output_dir={tmp_path}/whole")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


NAN = ["loss._component_=_faulty.NanOnce", "shuffle=false", "gradient_accumulation_steps=2"]


def test_nan_loss_stops_and_names_its_rows(run: Run, tmp_path: Path) -> None:
    result = run(*FULL, *SHORT, *NAN, "loss.at=3", "save_every_n_steps=1", f"output_dir={tmp_path}/out", ok=False)
    # Two micro-batches of two rows a step; the fourth is NaN.
    assert "The loss of step 2 is nan" in result.stderr
    assert "Rows of the training data in it, from 0: 6, 7. " in result.stderr
    assert steps(tmp_path / "out") == [1]


def test_nan_loss_is_skipped_by_option_and_counted(run: Run, tmp_path: Path) -> None:
    result = run(*FULL, *SHORT, *NAN, "loss.at=3", "on_nan_loss=skip", f"output_dir={tmp_path}/out")
    assert "the step is left out (1 so far). Rows of the training data in it, from 0: 6, 7." in result.stderr
    losses = logged(tmp_path / "out")
    assert [step for step, loss in losses.items() if loss == "nan"] == [2]
    assert list(logged(tmp_path / "out", "skipped_steps").values()) == ["0", "1", "1", "1", "1", "1"]
    assert (tmp_path / "out" / "epoch_0").is_dir()


@pytest.mark.distributed
@pytest.mark.parametrize(("how", "said"), [("raise", "row 17 is broken"), ("kill", "Signal 9 (SIGKILL)")])
def test_a_rank_that_dies_ends_the_others_with_its_error(how: str, said: str, run: Run, tmp_path: Path) -> None:
    options = [
        "dataset._component_=_faulty.dies_on_rank_one",
        f"dataset.how={how}",
        "distributed_timeout_seconds=60",
        "check_data=false",
    ]
    dataset = ["~dataset.conversation_column", "~dataset.conversation_style", "dataset.style=openai"]
    started = time.monotonic()
    result = run(
        "full_finetune_distributed",
        FULL[1],
        *SHORT,
        *options,
        *dataset,
        f"output_dir={tmp_path}/out",
        processes=2,
        ok=False,
    )
    assert time.monotonic() - started < 200
    cause = result.stderr[result.stderr.index("Root Cause") :]
    assert said in cause
    assert re.search(r"rank\s*: 1 ", cause)


def test_output_that_cannot_be_written_is_told_before_training(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(*FULL, *SHORT, f"output_dir={tmp_path}/logs", f"checkpointer.output_dir={tmp_path}/file/out", ok=False)
    assert f"output_dir {tmp_path}/file/out can't be written (Not a directory)" in result.stderr
    assert not logged(tmp_path / "logs")


def test_a_missing_tokenizer_is_told_before_weights_are_read(run: Run, tmp_path: Path) -> None:
    missing = [f"tokenizer.merges_file={tmp_path}/merges.txt", "checkpointer.checkpoint_dir=/nowhere"]
    result = run(*FULL, *SHORT, *missing, f"output_dir={tmp_path}/out", ok=False)
    assert f"No tokenizer file {tmp_path}/merges.txt: {tmp_path} holds out. Set the paths" in result.stderr
    assert "/nowhere is not" not in result.stderr


def test_full_disk_at_a_save_is_told_and_leaves_nothing_half_written(run: Run, tmp_path: Path) -> None:
    # No file may be larger than 100 kB: the system's own error, at the first tensor that doesn't fit.
    limited = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.argv = sys.argv[1:]; "
        "runpy.run_module('torchtune', run_name='__main__')"
    )
    python, _, _, *rest = command(*FULL, *SHORT, "save_every_n_steps=2", f"output_dir={tmp_path}/out")
    arguments = [python, "-c", limited, "tune", *rest]
    result = subprocess.run(arguments, capture_output=True, text=True, env=ENV, cwd=tmp_path, timeout=300)
    assert result.returncode != 0
    said = r"OSError: .*step_2 could not be written \(File too large\); earlier checkpoints are untouched\. Free space"
    assert re.search(said, result.stderr)
    assert not [path.name for path in (tmp_path / "out").iterdir() if "step" in path.name]


def test_keep_last_leaves_the_newest_and_a_corrupt_one_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    options = [*SHORT, "save_every_n_steps=1", "checkpointer.keep_last_n_checkpoints=2", f"output_dir={tmp_path}/out"]
    run(*FULL, *options)
    assert steps(tmp_path / "out") == [4, 5]
    shard = next((tmp_path / "out" / "step_5").glob("*.safetensors"))
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    result = run(*FULL, *options, "resume_from_checkpoint=true", ok=False)
    assert f"{tmp_path}/out/step_5 is damaged: {shard.name} has changed" in result.stderr
    assert f"Delete {tmp_path}/out/step_5 to resume from {tmp_path}/out/step_4" in result.stderr
