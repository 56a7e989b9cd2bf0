"""Losses that aren't numbers, short memory and signals are told with what to do about them."""

from __future__ import annotations

import os
import runpy
import signal
import threading
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from torchtune import training
from torchtune.training.checkpointing._folders import check_writable

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def batch(*rows: int) -> dict:
    return {"tokens": torch.zeros(len(rows), 2), "rows": list(rows)}


NAN, ONE = torch.tensor(float("nan")), torch.tensor(1.0)


def test_only_the_micro_batches_that_are_nan_are_named():
    with pytest.raises(training.NonFiniteLossError, match="loss of step 7 is nan.* from 0: 3, 9. Look") as error:
        training.LossCheck()(NAN, None, [ONE, NAN], [batch(1, 2), batch(3, 9)], 7)
    assert "on_nan_loss: skip" in str(error.value)


def test_an_infinite_gradient_names_all_rows_of_the_step():
    with pytest.raises(training.NonFiniteLossError, match="loss of step 1 is 1.0, its gradients' norm inf.* 1, 2"):
        training.LossCheck()(ONE, float("inf"), [ONE], [batch(1, 2)], 1)


def test_rows_of_streams_have_no_numbers():
    with pytest.raises(training.NonFiniteLossError, match="the dataset is a stream"):
        training.LossCheck()(NAN, None, [NAN], [{"tokens": torch.zeros(1)}], 1)


def test_skipping_counts_and_stops_after_ten_in_a_row(caplog):
    check = training.LossCheck("skip")
    assert not check(NAN, None, [NAN], [batch(0)], 1)
    assert check(ONE, 0.5, [ONE], [batch(0)], 2)
    for step in range(3, 13):
        assert not check(NAN, None, [NAN], [batch(0)], step)
    assert check.skipped == 11
    assert "(11 so far)" in caplog.messages[-1]
    with pytest.raises(training.NonFiniteLossError, match="11th time in a row"):
        check(NAN, None, [NAN], [batch(0)], 13)


def test_unknown_action_is_refused():
    with pytest.raises(ValueError, match="on_nan_loss is 'ignore'; expected 'stop' or 'skip'"):
        training.LossCheck("ignore")


CONFIG = {
    "model": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"}, "loss": {"_component_": "torch.nn.CrossEntropyLoss"},
    "optimizer": {"_component_": "torch.optim.AdamW"}, "tokenizer": {"max_seq_len": 4096}, "batch_size": 4, "dtype": "fp32",
}  # fmt: skip


def test_allocation_that_fails_names_settings_that_would_help():
    cfg = OmegaConf.create(CONFIG)
    with pytest.raises(RuntimeError) as error, training.fault_reports(cfg):
        torch.empty(2**58)
    message = str(error.value)
    assert message.startswith("Out of memory: ")
    lines = [line.split(" (")[0].strip() for line in message.splitlines()[2:]]
    assert lines == [
        "loss._component_=torchtune.modules.loss.LinearCrossEntropyLoss", "enable_activation_checkpointing=true",
        "batch_size=2 gradient_accumulation_steps=2", "dtype=bf16",
        "optimizer._component_=torchao.optim.AdamW8bit",
    ]  # fmt: skip


def test_settings_that_are_on_are_not_proposed():
    cfg = OmegaConf.create(
        {
            **CONFIG, "model": {"_component_": "torchtune.models.llama3_2.lora_llama3_2_1b"}, "batch_size": 1, "dtype": "bf16",
            "enable_activation_checkpointing": True, "tokenizer": {"max_seq_len": 512},
            "loss": {"_component_": "torchtune.modules.loss.LinearCrossEntropyLoss"},
        }
    )  # fmt: skip
    advice = training.out_of_memory_advice(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), cfg)
    assert [line.split("=")[0].strip() for line in advice.splitlines()[2:]] == [
        "enable_activation_offloading", "model.quantize_base",
    ]  # fmt: skip


def test_other_errors_pass_unchanged():
    with pytest.raises(ValueError, match="^memory of elephants$"), training.fault_reports(OmegaConf.create(CONFIG)):
        raise ValueError("memory of elephants")


def test_sigterm_is_noted_and_outside_the_main_thread_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop = training.StopSignal()
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()
        noted = signal.getsignal(signal.SIGTERM)
        thread = threading.Thread(target=training.StopSignal)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is noted
    finally:
        signal.signal(signal.SIGTERM, before)


def test_batches_say_which_rows_are_in_them_and_fillers_are_none():
    rows = [{"tokens": [n], "labels": [n]} for n in range(5)]
    found = []
    for rank in range(2):
        loader = training.build_dataloader(
            rows, batch_size=2, collate_fn=lambda batch: {"n": [row["tokens"][0] for row in batch]}, shuffle=True, seed=1,
            num_replicas=2, rank=rank, drop_last=False, number_rows=True,
        )  # fmt: skip
        for made in loader:
            assert made["rows"] == made["n"][: len(made["rows"])]
            found += made["rows"]
    assert sorted(found) == [0, 1, 2, 3, 4]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_is_told(tmp_path):
    (tmp_path / "out").mkdir(mode=0o555)
    with pytest.raises(OSError, match="out can't be written .Permission denied"):
        check_writable(tmp_path / "out")


def test_output_below_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/out can't be written .Not a directory.*Set output_dir"):
        check_writable(tmp_path / "file" / "out")
    check_writable(tmp_path / "new" / "out")
    assert not list((tmp_path / "new" / "out").iterdir())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("quickstart/generation", "it lacks optimizer, loss, epochs, and has prompt, tools, max_new_tokens"),
        ("llama3_1/8B_lora_dpo", "its loss is torchtune.rlhf.loss.DPOLoss, which needs pairs of answers"),
    ],
)
def test_config_of_another_recipe_is_refused(config, said):
    recipe = runpy.run_path(str(RECIPES / "finetune.py"))
    cfg = OmegaConf.load(RECIPES / "configs" / f"{config}.yaml")
    with pytest.raises(ValueError, match=f"The config is not one of this recipe: {said}"):
        recipe["recipe_main"].__wrapped__(cfg)
