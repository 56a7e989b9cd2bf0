"""Recipes for models as they are: quantize, generate in its several names, eleuther_eval."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from _tiny import ASSETS, ROOT, tiny_config
from omegaconf import DictConfig, OmegaConf

pytestmark = pytest.mark.recipes

QUANTIZER = {"_component_": "torchtune.training.quantization.Int8DynActInt4WeightQuantizer", "groupsize": 32}


def inference_config(folder: Path, **settings: Any) -> DictConfig:
    """The quickstart's model, to answer with."""
    base = tiny_config(folder)
    cfg = {key: base[key] for key in ("output_dir", "assets", "model", "tokenizer", "checkpointer")}
    answer = {"max_new_tokens": 8, "temperature": 0.0, "top_k": None, "device": "cpu", "dtype": "fp32", "seed": 1}
    return OmegaConf.create({**cfg, **answer, "prompt": {"system": "Be brief.", "user": "Where is Oslo?"}, **settings})


def answered(cfg: DictConfig) -> str:
    from recipes.generate import InferenceRecipe

    recipe = InferenceRecipe(cfg)
    recipe.setup()
    return recipe.generate()


def test_a_prompt_of_text_and_image_form_is_answered_as_plain_text(tmp_path: Path) -> None:
    plain = answered(inference_config(tmp_path))
    assert plain == answered(
        inference_config(tmp_path, prompt={"system": "Be brief.", "user": {"text": "Where is Oslo?"}})
    )


@pytest.mark.parametrize("name", ["Int8DynActInt4WeightQuantizer", "Int4WeightOnlyQuantizer"])
def test_a_quantized_checkpoint_answers_like_a_model_quantized_on_loading(name: str, tmp_path: Path) -> None:
    from recipes.quantize import QuantizationRecipe

    quantizer = {"_component_": f"torchtune.training.quantization.{name}", "groupsize": 32}
    recipe = QuantizationRecipe(inference_config(tmp_path, quantizer=quantizer))
    recipe.setup()
    recipe.quantize()
    path = recipe.save_checkpoint()
    assert path.name == ("model-8da4w.pt" if "Int8" in name else "model-4w.pt")
    quantized = {
        "_component_": "torchtune.training.FullModelTorchTuneCheckpointer",
        "checkpoint_dir": str(path.parent),
        "checkpoint_files": [path.name],
        "model_type": "QWEN2",
        "output_dir": str(tmp_path.parent / f"{tmp_path.name}-answers"),
    }
    saved = answered(inference_config(tmp_path, checkpointer=quantized))
    assert saved == answered(inference_config(tmp_path, quantizer=quantizer))
    too_large = QuantizationRecipe(inference_config(tmp_path, quantizer={**quantizer, "groupsize": 100}))
    too_large.setup()
    with pytest.raises(ValueError, match="groupsize is 100, which does not divide the 128 inputs of layers.0"):
        too_large.quantize()


def test_a_quantizer_for_training_is_refused_by_quantize(tmp_path: Path) -> None:
    from recipes.quantize import QuantizationRecipe

    qat = {"_component_": "torchtune.training.quantization.Int8DynActInt4WeightQATQuantizer", "groupsize": 32}
    with pytest.raises(ValueError, match="Int8DynActInt4WeightQuantizer or Int4WeightOnlyQuantizer"):
        QuantizationRecipe(inference_config(tmp_path, quantizer=qat))


def test_a_checkpoint_whose_files_stand_in_its_index_is_quantized(tmp_path: Path) -> None:
    from recipes.quantize import QuantizationRecipe

    cfg = inference_config(tmp_path, quantizer=QUANTIZER)
    cfg.checkpointer.checkpoint_files = []
    recipe = QuantizationRecipe(cfg)
    recipe.setup()
    recipe.quantize()
    assert recipe.save_checkpoint().name == "model-8da4w.pt"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": None}, "set prompt.user, or messages"),
        ({"model.max_seq_len": 4}, r"The prompt has \d+ tokens, but the model reads 4"),
        ({"temperature": -1.0}, "temperature is -1.0, top_k None"),
        ({"temperature": 1.0, "top_k": 0}, "top_k 0; expected"),
    ],
)
def test_what_cannot_be_generated_is_said(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    cfg = inference_config(tmp_path)
    for key, value in settings.items():
        OmegaConf.update(cfg, key, value, merge=False)
    with pytest.raises(ValueError, match=message):
        answered(cfg)


def test_answers_end_where_the_model_ends(tmp_path: Path) -> None:
    from recipes.generate import InferenceRecipe

    cfg = inference_config(tmp_path, max_new_tokens=5000)
    cfg.model.max_seq_len = 40
    recipe = InferenceRecipe(cfg)
    recipe.setup()
    recipe.tokenizer.stop_tokens = []
    recipe.generate()
    assert recipe.max_new_tokens == 40 - len(recipe.prompt_tokens()) > 0


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_answer_as_one(tmp_path: Path) -> None:
    plan = {"_component_": "torchtune.models.llama3.base_llama_tp_plan"}
    cfg = inference_config(tmp_path, temperature=0.7, top_k=20, tensor_parallel_plan=plan)
    OmegaConf.save(cfg, tmp_path / "cfg.yaml")
    command = [sys.executable, "-m", "torchtune", "run", "--nproc-per-node", "2", "dev/generate_v2_distributed"]
    command += ["--config", str(tmp_path / "cfg.yaml")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert run.returncode == 0, run.stderr[-3000:]
    from recipes.generate import InferenceRecipe
    from torchtune.generation import generate

    recipe = InferenceRecipe(OmegaConf.merge(cfg, {"tensor_parallel_plan": None}))
    recipe.setup()
    tokens = recipe.prompt_tokens()
    out, _ = generate(
        recipe.model, torch.tensor(tokens), max_generated_tokens=8, temperature=0.7, top_k=20,
        stop_tokens=recipe.tokenizer.stop_tokens, rng=torch.Generator().manual_seed(1),
    )  # fmt: skip
    answer = [token for token in out[0, len(tokens) :].tolist() if token not in recipe.tokenizer.stop_tokens]
    assert recipe.tokenizer.decode(answer).strip() in run.stdout


TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: {kind}
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: {target}
{rest}
metric_list:
  - metric: {metric}
"""
ROWS = [
    {"question": "Capital of Norway?", "answer": "Oslo", "right": 0},
    {"question": "Of France?", "answer": "Paris", "right": 1},
]
KINDS = {
    "multiple_choice": {"target": "right", "rest": 'doc_to_choice: ["Oslo", "Paris"]', "metric": "acc"},
    "generate_until": {
        "target": "answer",
        "rest": 'generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: false}',
        "metric": "exact_match",
    },
    "loglikelihood_rolling": {"target": "answer", "rest": "", "metric": "word_perplexity"},
}


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_harness_runs_offline_tasks(kind: str, chat: bool, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from recipes.eleuther_eval import EleutherEvalRecipe

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "capitals.yaml").write_text(TASK.format(data=data, kind=kind, **KINDS[kind]))
    cfg = inference_config(tmp_path, tasks=["capitals"], include_path=str(tmp_path), batch_size=2, max_seq_length=256)
    cfg.apply_chat_template = chat
    recipe = EleutherEvalRecipe(cfg)
    recipe.setup()
    found = recipe.evaluate()["results"]["capitals"]
    value = found[f"{KINDS[kind]['metric']},none"]
    assert value > 1 if kind == "loglikelihood_rolling" else value in (0, 0.5, 1)


@pytest.mark.parametrize("tasks", ["capitals", ["capitals"], None])
def test_tasks_are_a_name_or_a_list(tasks: Any, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from recipes.eleuther_eval import EleutherEvalRecipe

    recipe = EleutherEvalRecipe(inference_config(tmp_path, tasks=tasks))
    if tasks is None:
        with pytest.raises(ValueError, match="tasks is not set"):
            recipe.setup()
    else:
        recipe.setup()
        assert recipe.tasks == ["capitals"]


def test_likelihoods_are_those_of_the_model_itself(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from recipes.eleuther_eval import EleutherEvalRecipe

    cfg = inference_config(tmp_path, tasks=[], batch_size=2, max_seq_length=256)
    recipe = EleutherEvalRecipe(cfg)
    recipe.setup()
    harness = recipe.harness
    chat = harness.apply_chat_template([{"role": "user", "content": "Where is Oslo?"}])
    pairs = [("The city of", " Oslo lies in Norway"), (chat, "In Norway"), ("A", " B")]
    found = harness.loglikelihood(
        [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs], disable_tqdm=True
    )
    for (context, continuation), (score, _) in zip(pairs, found, strict=True):
        left, right = harness._encode_pair(context, continuation)
        with torch.no_grad():
            logits = recipe.harness._model(torch.tensor([left + right]))[0].log_softmax(-1)
        expected = sum(logits[len(left) - 1 + i, token].item() for i, token in enumerate(right))
        assert score == pytest.approx(expected, abs=1e-4)
    messages = recipe.harness._tokens.prompt_tokens
    from torchtune.data import Message

    assert harness.tok_encode(chat) == messages([Message("user", "Where is Oslo?")])


def test_without_the_harness_its_recipe_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ImportError, match=r"pip install 'torchtune\[eval\]'"):
        runpy.run_path(str(ROOT / "recipes" / "eleuther_eval.py"))


assert ASSETS.is_dir()
