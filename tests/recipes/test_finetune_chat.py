"""The finetune recipe and chat formats: weights of tokens in the loss, and the checkpoint's chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from _runs import RECIPES, Run, logged

pytestmark = [pytest.mark.recipes, pytest.mark.slow]

FULL = ("full_finetune_single_device", "quickstart/tool_calling")
SHORT = ["epochs=1", "max_steps_per_epoch=1", "batch_size=4", "log_every_n_steps=1", "eval_tool_calls=null"]
SHORT += ["dataset_val=null", "shuffle=false", "save_every_n_epochs=null"]
MODEL = RECIPES / "quickstart" / "model"


@pytest.mark.parity
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_calls_count_more_in_the_loss(packed: bool, run: Run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    options = [*SHORT, "tokenizer.train_on=[sampled,{call: 3.0}]", f"output_dir={tmp_path}/out"]
    if packed:
        options += ["dataset.packed=true", "tokenizer.max_seq_len=1024", "batch_size=1"]
    run(*FULL, *options)

    from torchtune.data import OpenAIToMessages
    from torchtune.models.qwen2_5 import qwen2_5_tokenizer

    tokenizer = qwen2_5_tokenizer(
        path=str(MODEL / "vocab.json"),
        merges_file=str(MODEL / "merges.txt"),
        special_tokens_path=str(MODEL / "tokenizer.json"),
        train_on=["sampled", {"call": 3.0}],
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    total = weight = room = 0.0
    for number, line in enumerate((RECIPES / "quickstart" / "data" / "train.jsonl").read_text().splitlines()):
        sample = tokenizer(dict(OpenAIToMessages()(json.loads(line))))
        room += len(sample["tokens"])
        if room > 1024 if packed else number == 4:
            break
        tokens = torch.tensor(sample["tokens"])
        factors = torch.tensor(sample.get("loss_weights") or [float(not hidden) for hidden in sample["mask"]])[1:]
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(tokens[None]).logits[0, :-1], tokens[1:], reduction="none")
        total, weight = total + float((losses * factors).sum()), weight + float(factors.sum())
    assert float(logged(tmp_path / "out")[1]) == pytest.approx(total / weight, abs=1e-4)


def test_another_format_than_the_checkpoints_stops_the_run(run: Run, tmp_path: Path) -> None:
    options = [*SHORT, "tokenizer.chat_format=qwen3", f"output_dir={tmp_path}/out"]
    error = run(*FULL, *options, ok=False).stderr
    assert "format qwen3 and the checkpoint's chat template differ from character 19 on" in error
    assert "seems to be 'qwen2_5'" in error and not logged(tmp_path / "out")
    run(*FULL, *options, "check_template=off")
    assert logged(tmp_path / "out")
