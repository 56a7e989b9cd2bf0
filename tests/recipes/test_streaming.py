"""The finetune recipe on streams: lengths, kills, ranks, several sources."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from _runs import RECIPES, Run, command, logged, run_until

pytestmark = [pytest.mark.recipes, pytest.mark.slow]

FULL = ("full_finetune_single_device", "quickstart/tool_calling")
SHORT = [
    "epochs=2",
    "max_steps_per_epoch=3",
    "batch_size=4",
    "log_every_n_steps=1",
    "eval_tool_calls=null",
    "dataset_val=null",
]
STREAM = [*SHORT, "dataset.streaming=true", "dataset.shuffle_buffer=64"]
DATA = RECIPES / "quickstart" / "data"


def test_a_stream_needs_the_length_of_an_epoch(run: Run, tmp_path: Path) -> None:
    result = run(*FULL, *STREAM, "max_steps_per_epoch=null", f"output_dir={tmp_path}/out", ok=False)
    assert "max_steps_per_epoch is not set, but the dataset is a stream" in result.stderr


def test_validation_on_a_stream_must_end(run: Run, tmp_path: Path) -> None:
    options = [
        "dataset_val.source=json",
        f"dataset_val.data_files={DATA}/test.jsonl",
        "dataset_val.conversation_column=messages",
    ]
    options += ["dataset_val.conversation_style=openai", "dataset_val._component_=torchtune.datasets.chat_dataset"]
    options += ["dataset_val.streaming=true", "dataset_val.split=train", "batch_size_val=4"]
    short = [option for option in SHORT if "dataset_val" not in option]
    result = run(*FULL, *short, *options, f"output_dir={tmp_path}/out", ok=False)
    assert "set run_val_max_batches, or repeat: false in dataset_val" in result.stderr


def test_a_killed_stream_resumes_with_the_same_losses(run: Run, tmp_path: Path) -> None:
    options = [*STREAM, "dataset.packed=true", "tokenizer.max_seq_len=512", "batch_size=2", "save_every_n_steps=2"]
    run(*FULL, *options, f"output_dir={tmp_path}/whole")
    arguments = command(*FULL, *options, f"output_dir={tmp_path}/killed")
    run_until(tmp_path / "killed" / "step_2" / "torchtune_checkpoint.json", arguments, tmp_path)
    run(*FULL, *options, f"output_dir={tmp_path}/killed", "resume_from_checkpoint=true")
    whole = logged(tmp_path / "whole")
    assert len(whole) == 6
    assert logged(tmp_path / "killed") == whole


@pytest.mark.distributed
def test_two_processes_stream_to_the_loss_of_one(run: Run, tmp_path: Path) -> None:
    run(*FULL, *STREAM, f"output_dir={tmp_path}/one")
    run("full_finetune_distributed", FULL[1], *STREAM, "batch_size=2", f"output_dir={tmp_path}/two", processes=2)
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) == 6
    for step in one:
        assert float(two[step]) == pytest.approx(float(one[step]), abs=1e-4)


def test_several_streams_are_interleaved(run: Run, tmp_path: Path) -> None:
    config = yaml.safe_load((RECIPES / "configs" / "quickstart" / "tool_calling.yaml").read_text())
    first = {**config["dataset"], "streaming": True, "weight": 3}
    config["dataset"] = [first, {**first, "data_files": "${assets}/data/test.jsonl", "weight": 1}]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    run(FULL[0], str(tmp_path / "two.yaml"), *SHORT, f"output_dir={tmp_path}/out")
    assert len(logged(tmp_path / "out")) == 6
