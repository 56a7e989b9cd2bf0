"""The finetune recipe on the quickstart's model and data: kills, ranks, adapters, what others load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from _runs import RECIPES, Run, command, logged, run_until

pytestmark = [pytest.mark.recipes, pytest.mark.slow]

FULL = ("full_finetune_single_device", "quickstart/tool_calling")
LORA = ("lora_finetune_single_device", "quickstart/tool_calling_lora")
SHORT = [
    "epochs=2",
    "max_steps_per_epoch=3",
    "batch_size=4",
    "log_every_n_steps=1",
    "eval_tool_calls=null",
    "dataset_val=null",
]
MODEL = RECIPES / "quickstart" / "model"


def conversation() -> dict:
    row = json.loads((RECIPES / "quickstart" / "data" / "test.jsonl").read_text().splitlines()[0])
    return {"messages": row["messages"], "tools": row["tools"]}


@pytest.mark.parametrize("recipe", [FULL, LORA], ids=["full", "lora"])
def test_killed_run_resumes_with_the_same_losses(recipe: tuple[str, str], run: Run, tmp_path: Path) -> None:
    options = [*SHORT, "save_every_n_steps=2", "gradient_accumulation_steps=2", "clip_grad_norm=1.0"]
    run(*recipe, *options, f"output_dir={tmp_path}/whole")
    arguments = command(*recipe, *options, f"output_dir={tmp_path}/killed")
    run_until(tmp_path / "killed" / "step_2" / "torchtune_checkpoint.json", arguments, tmp_path)
    result = run(*recipe, *options, f"output_dir={tmp_path}/killed", "resume_from_checkpoint=true")
    assert "Resumed at step" in result.stderr
    whole = logged(tmp_path / "whole")
    assert len(whole) == 6
    assert logged(tmp_path / "killed") == whole


@pytest.mark.distributed
@pytest.mark.parametrize("recipe", [FULL, LORA], ids=["full", "lora"])
def test_two_processes_reach_the_loss_of_one(recipe: tuple[str, str], run: Run, tmp_path: Path) -> None:
    options = [*SHORT, "optimizer.lr=5e-4"]
    run(*recipe, *options, f"output_dir={tmp_path}/one")
    name = recipe[0].replace("single_device", "distributed")
    run(name, recipe[1], *options, "batch_size=2", f"output_dir={tmp_path}/two", processes=2)
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert len(one) == 6
    assert two.keys() == one.keys()
    for step in one:
        assert float(two[step]) == pytest.approx(float(one[step]), abs=1e-4)


@pytest.mark.parity
def test_full_checkpoint_loads_in_transformers_with_the_same_loss(run: Run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run(*FULL, *SHORT, f"output_dir={tmp_path}/out")
    folder = tmp_path / "out" / "epoch_1"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = our_logits(folder, conversation())
    ids = tokenizer.apply_chat_template(**parsed(conversation()), return_dict=True, return_tensors="pt")["input_ids"]
    assert ids.tolist() == ours["tokens"].tolist()
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, ours["logits"], atol=1e-4)


@pytest.mark.parity
def test_first_loss_equals_that_of_transformers(run: Run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run(*FULL, *SHORT, "shuffle=false", "epochs=1", "max_steps_per_epoch=1", f"output_dir={tmp_path}/out")
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    total, count = 0.0, 0
    for line in (RECIPES / "quickstart" / "data" / "train.jsonl").read_text().splitlines()[:4]:
        sample = tokenized(json.loads(line))
        tokens = torch.tensor([sample["tokens"]])
        labels = tokens.masked_fill(torch.tensor([sample["mask"]]), -100)  # transformers shifts them itself
        trained = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += model(tokens, labels=labels).loss.item() * trained
        count += trained
    assert float(logged(tmp_path / "out")[1]) == pytest.approx(total / count, abs=1e-4)


@pytest.mark.parity
def test_adapter_loads_in_peft_and_equals_the_merged_model(run: Run, tmp_path: Path) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    run(*LORA, *SHORT, f"output_dir={tmp_path}/out")
    folder = tmp_path / "out" / "epoch_1"
    base = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    ids = our_logits(folder, conversation())["tokens"]
    with torch.no_grad():
        before = base(ids).logits
        adapted = peft.PeftModel.from_pretrained(base, folder / "adapter")(ids).logits
        merged_model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        merged = merged_model(ids).logits
    assert torch.allclose(adapted, merged, atol=1e-4)
    assert not torch.allclose(adapted, before, atol=1e-2)


def test_adapter_alone_can_be_saved(run: Run, tmp_path: Path) -> None:
    run(*LORA, *SHORT, "save_adapter_weights_only=true", f"output_dir={tmp_path}/out")
    names = {path.name for path in (tmp_path / "out" / "epoch_1").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names
    assert not any(name.startswith("model") for name in names)


@pytest.mark.parametrize(
    "options",
    [
        ["dtype=bf16", "enable_activation_checkpointing=true", "enable_activation_offloading=true"],
        ["optimizer_in_bwd=true", "clip_grad_norm=null"],
        ["dataset.packed=true", "tokenizer.max_seq_len=1024"],
        ["loss._component_=torchtune.modules.loss.CEWithChunkedOutputLoss"],
        ["loss._component_=torch.nn.CrossEntropyLoss"],
    ],
    ids=["bf16-checkpointing-offloading", "optimizer-in-backward", "packed", "chunked-loss", "plain-loss"],
)
def test_settings_train(options: list[str], run: Run, tmp_path: Path) -> None:
    run(*FULL, *SHORT, "max_steps_per_epoch=2", "shuffle=false", *options, f"output_dir={tmp_path}/out")
    losses = [float(loss) for loss in logged(tmp_path / "out").values()]
    assert len(losses) == 4
    assert losses[2] < losses[0] and losses[3] < losses[1]  # the same rows, an epoch later
    assert all(0 < loss < 20 for loss in losses)


@pytest.mark.parametrize("option", ["use_dora", "quantize_base"])
def test_dora_and_qlora_train_and_save(option: str, run: Run, tmp_path: Path) -> None:
    run(*LORA, *SHORT, f"model.{option}=true", f"output_dir={tmp_path}/out")
    assert len(logged(tmp_path / "out")) == 6
    assert (tmp_path / "out" / "epoch_1" / "adapter" / "adapter_model.safetensors").is_file()


def test_tool_calls_are_scored_before_and_after(run: Run, tmp_path: Path) -> None:
    result = run(
        *FULL, *SHORT, f"output_dir={tmp_path}/out",
        "eval_tool_calls.dataset._component_=torchtune.datasets.tool_eval_dataset", "eval_tool_calls.dataset.source=json",
        f"eval_tool_calls.dataset.data_files={RECIPES}/quickstart/data/test.jsonl", "eval_tool_calls.dataset.style=openai",
        "eval_tool_calls.dataset.max_cases=8", "eval_tool_calls.max_new_tokens=8",
    )  # fmt: skip
    assert "before" in result.stdout
    assert "after" in result.stdout
    assert logged(tmp_path / "out", "tool_eval/accuracy").keys() == {0, 6}


def test_unknown_key_is_told_with_the_nearest_known_one(run: Run, tmp_path: Path) -> None:
    result = run(*FULL, *SHORT, "strict=true", "bacth_size_val=3", f"output_dir={tmp_path}/out", ok=False)
    assert "bacth_size_val" in result.stderr
    assert "batch_size_val" in result.stderr


def test_contradicting_settings_are_refused_by_name(run: Run, tmp_path: Path) -> None:
    result = run(
        *FULL, *SHORT, "optimizer_in_bwd=true", "gradient_accumulation_steps=2", f"output_dir={tmp_path}/out", ok=False
    )
    assert "gradient_accumulation_steps" in result.stderr.splitlines()[-1]


def tokenized(row: dict) -> dict:
    from omegaconf import OmegaConf

    from torchtune import config
    from torchtune.data import OpenAIToMessages

    cfg = OmegaConf.load(RECIPES / "configs" / "quickstart" / "tool_calling.yaml")
    return config.instantiate(cfg.tokenizer)(OpenAIToMessages()(row))


def our_logits(folder: Path, row: dict) -> dict[str, torch.Tensor]:
    from omegaconf import OmegaConf

    from torchtune import config, training

    cfg = OmegaConf.load(RECIPES / "configs" / "quickstart" / "tool_calling.yaml")
    cfg.checkpointer.update(checkpoint_dir=str(folder), checkpoint_files=[], output_dir=None)
    model = config.instantiate(cfg.model)
    model.load_state_dict(config.instantiate(cfg.checkpointer).load_checkpoint()[training.MODEL_KEY])
    tokens = torch.tensor([tokenized(row)["tokens"]])
    with torch.no_grad():
        return {"tokens": tokens, "logits": model(tokens)}


def parsed(row: dict) -> dict:
    """The row with argument objects, as chat templates take them."""
    row = json.loads(json.dumps(row))
    for message in row["messages"]:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return {"conversation": row["messages"], "tools": row["tools"]}
