"""Every recipe name that `tune ls` shows, started by that name: two steps with evaluation, a save, a resume with the same loss."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from _methods import FULL, LORA, METHODS
from _preference import dpo_settings, grpo_settings, make_models, ppo_settings, prompt_row, write_rows
from _tiny import ASSETS, tiny_config
from omegaconf import DictConfig, OmegaConf

from torchtune import _recipe_registry as registry
from torchtune._cli import tune

pytestmark = pytest.mark.recipes

# recipe -> its base config and what it adds, in tests/recipes/_methods.py
SUPERVISED = {
    "full_finetune_single_device": "full",
    "full_finetune_distributed": "full",
    "lora_finetune_single_device": "lora",
    "lora_finetune_distributed": "lora",
    "dev/lora_finetune_distributed_multi_dataset": "several_datasets",
    "dev/early_exit_finetune_distributed": "early_exit",
    "qat_single_device": "qat",
    "qat_distributed": "qat",
    "qat_lora_finetune_distributed": "qat_lora",
    "knowledge_distillation_single_device": "distillation",
    "knowledge_distillation_distributed": "distillation",
}
# recipe -> settings, and what makes them two steps; whether an adapter is trained is in the recipe's name
POLICY: dict[str, tuple[Any, dict[str, Any]]] = {
    **{f"{name}_dpo_{on}": (dpo_settings, {"max_steps_per_epoch": 2, "epochs": 1})
       for name in ("full", "lora") for on in ("single_device", "distributed")},
    **{f"ppo_{name}_finetune_single_device": (ppo_settings, {"num_steps": 8}) for name in ("full", "lora")},
    **{f"dev/grpo_{name}_finetune_{on}": (grpo_settings, {"num_steps": 2, "epochs": 1})
       for name in ("full", "lora") for on in ("single_device", "distributed")},
}  # fmt: skip
INFERENCE: dict[str, dict[str, Any]] = {
    "generate": {},
    "dev/generate_v2": {"use_distributed_state_dict": False},
    "dev/generate_v2_distributed": {"tensor_parallel_plan": {"_component_": "torchtune.models.llama3.base_llama_tp_plan"}},
    "quantize": {
        "quantizer": {
            "_component_": "torchtune.training.quantization.Int8DynActInt4WeightQuantizer",
            "groupsize": 32,
        },
    },
    "eleuther_eval": {"tasks": ["capitals"], "batch_size": 2, "max_seq_length": 256},
}  # fmt: skip
CALLS = {
    "_component_": "torchtune.datasets.tool_eval_dataset",
    "source": "json",
    "data_files": f"{ASSETS}/data/test.jsonl",
    "style": "openai",
    "max_cases": 2,
}
ROWS = {
    "_component_": "torchtune.datasets.chat_dataset",
    "source": "json",
    "data_files": f"{ASSETS}/data/test.jsonl",
    "conversation_column": "messages",
    "conversation_style": "openai",
    "split": "train[:4]",
}
TASK = """
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Capital of {{{{land}}}}?"
doc_to_target: right
doc_to_choice: [Oslo, Paris]
metric_list: [{{metric: acc}}]
"""


def test_the_tables_name_every_recipe() -> None:
    assert {*SUPERVISED, *POLICY, *INFERENCE} == {recipe.name for recipe in registry.get_all_recipes()}


def start(recipe: str, cfg: DictConfig, folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    """``tune run <recipe> --config <file>``, in this process."""
    file = folder / "config.yaml"
    OmegaConf.save(cfg, file)
    monkeypatch.setattr("sys.argv", ["tune", "run", recipe, "--config", str(file), *overrides])
    try:
        tune.main()
    except SystemExit as ended:
        assert not ended.code


def logged(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def stop_and_resume(
    recipe: str, cfg: DictConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """Runs two steps, forgets the second, and resumes; what the first run logged."""
    cfg.save_every_n_steps = 1
    start(recipe, cfg, folder, monkeypatch)
    out = Path(cfg.output_dir)
    whole = logged(out)
    losses = {row["step"]: row["loss"] for row in whole if "loss" in row}
    assert list(losses) == [1, 2]
    for saved in (*out.rglob("epoch_0"), *out.rglob("step_2")):
        shutil.rmtree(saved)
    start(recipe, cfg, folder, monkeypatch, "resume_from_checkpoint=true")
    assert [(row["step"], row["loss"]) for row in logged(out)[len(whole) :] if "loss" in row] == [(2, losses[2])]
    assert list(out.rglob("epoch_0/*.safetensors")) != []
    return whole


@pytest.mark.parametrize("recipe", SUPERVISED)
def test_supervised(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, settings = {"full": (FULL, {}), "lora": (LORA, {}), **METHODS}[SUPERVISED[recipe]]
    settings = settings(tmp_path) if callable(settings) else settings
    evaluation = {
        "dataset_val": ROWS, "run_val_every_n_steps": 1, "run_val_max_batches": 1,
        "eval_tool_calls": {"dataset": CALLS, "max_new_tokens": 4, "batch_size": 2},
    }  # fmt: skip
    two_steps = {"epochs": 1, "max_steps_per_epoch": 2}
    cfg = tiny_config(tmp_path / "out", base, **{**settings, **evaluation, **two_steps})
    rows = stop_and_resume(recipe, cfg, tmp_path, monkeypatch)
    assert [row["step"] for row in rows if "val_loss" in row] == [1, 2, 2]
    assert [row["step"] for row in rows if "tool_eval/accuracy" in row] == [0, 2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    write_rows(folder / "rows.jsonl")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt_row(i)) + "\n" for i in range(7)))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"prompt": f"The number {i} is"}) + "\n" for i in range(9)))
    return folder


@pytest.mark.parametrize("recipe", POLICY)
def test_policy(recipe: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, two_steps = POLICY[recipe]
    if "grpo" in recipe:
        two_steps = {**two_steps, "eval_tool_calls": {"dataset": CALLS, "max_new_tokens": 4, "batch_size": 2}}
    cfg = settings(models, tmp_path / "out", lora="lora" in recipe, **two_steps)
    if "grpo" in recipe:
        cfg.dataset.data_files = str(models / "prompts.jsonl")
    rows = stop_and_resume(recipe, cfg, tmp_path, monkeypatch)
    assert ("tool_eval/accuracy" in rows[0]) == ("grpo" in recipe)


@pytest.mark.parametrize("recipe", INFERENCE)
def test_inference(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if recipe == "eleuther_eval":
        pytest.importorskip("lm_eval")
    base = tiny_config(tmp_path / "out")
    cfg = {key: base[key] for key in ("output_dir", "assets", "model", "checkpointer")}
    cfg |= {} if recipe == "quantize" else {"tokenizer": base.tokenizer}
    cfg |= {"device": "cpu", "dtype": "fp32", "seed": 1, **INFERENCE[recipe]}
    if "generate" in recipe:
        cfg |= {"prompt": {"user": "Where is Oslo?"}, "max_new_tokens": 6}
    if recipe == "eleuther_eval":
        (tmp_path / "rows.jsonl").write_text('{"land": "Norway", "right": 0}\n{"land": "France", "right": 1}\n')
        (tmp_path / "capitals.yaml").write_text(TASK.format(data=tmp_path / "rows.jsonl"))
        cfg["include_path"] = str(tmp_path)
    start(recipe, OmegaConf.create(cfg), tmp_path, monkeypatch)
    out = capsys.readouterr().out
    if recipe == "eleuther_eval":
        assert re.search(r"\|capitals\s*\|.*\|acc\s*\|", out)
    elif recipe == "quantize":
        assert (tmp_path / "out" / "model-8da4w.pt").is_file()
    else:
        assert out.strip()
