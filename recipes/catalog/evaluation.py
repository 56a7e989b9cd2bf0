"""The configs of the recipes ``eleuther_eval`` and ``quantize``."""

from __future__ import annotations

from recipes.catalog._render import download, render_values
from recipes.catalog._values import apply, inference_values
from recipes.catalog.checkpoints import find_checkpoint

_SECTIONS = (
    ("", ("output_dir",)),
    ("", ("model",)),
    ("", ("checkpointer", "resume_from_checkpoint")),
    ("", ("tokenizer",)),
    ("Tasks of lm-evaluation-harness, see `lm-eval ls tasks`; limit: so many rows of each", ("tasks", "limit")),
    ("", ("apply_chat_template", "max_seq_length", "batch_size", "enable_kv_cache")),
    ("How the weights are rounded", ("quantizer",)),
    ("", ("device", "dtype", "seed", "log_level")),
)
_EVALUATE = (
    "output_dir=./ device=cuda dtype=bf16 seed=1234 tasks=[truthfulqa_mc2] limit=null max_seq_length=4096 batch_size=8 "
    "enable_kv_cache=true quantizer=null"
)
_QUANTIZE = (
    "output_dir=/tmp/torchtune/llama2_7B/quantized device=cuda dtype=bf16 seed=1234 checkpointer.recipe_checkpoint=null "
    "quantizer._component_=torchtune.training.quantization.Int8DynActInt4WeightQuantizer quantizer.groupsize=256"
)
_KEPT = "resume_from_checkpoint=false checkpointer.recipe_checkpoint=null"

# name of the config, checkpoint, settings
EVALUATIONS = (
    ("eleuther_evaluation", "llama2/7B", "apply_chat_template=false"),
    ("llama3_2_vision/11B_evaluation", "llama3_2_vision/11B", "@vision"),
    ("qwen2/evaluation", "qwen2/7B", ""),
    ("qwen2_5/evaluation", "qwen2_5/0.5B", ""),
    ("gemma/evaluation", "gemma/2B", "-tokenizer.max_seq_len"),
    ("phi4/evaluation", "phi4/14B", _KEPT),
    ("phi3/evaluation", "phi3/mini", _KEPT),
    ("mistral/evaluation", "mistral/7B", "resume_from_checkpoint=false"),
    ("llama3_2/evaluation", "llama3_2/3B", f"{_KEPT} device=cpu"),
    ("qwen3/evaluation", "qwen3/0.6B", ""),
    ("llama3_1/evaluation", "llama3_1/8B", ""),
)
_VISION = "max_seq_length=8192 tokenizer.max_seq_len=8192 batch_size=1 tasks=[mmmu_val_science] log_level=INFO"


def evaluation_configs(waiting: frozenset[str]) -> dict[str, tuple[str, str]]:
    """Recipe and text of each config, by name, but for families that wait."""
    configs = {}
    for name, row, settings in EVALUATIONS:
        checkpoint = find_checkpoint(row)
        if checkpoint.name.split("/")[0] in waiting:
            continue
        values = inference_values(checkpoint)
        apply(values, f"{_EVALUATE} {settings.replace('@vision', _VISION)}")
        run = f"Run: tune run eleuther_eval --config {name}  (needs: pip install 'torchtune[eval]')"
        header = (f"Weights: {download(checkpoint)}", run)
        configs[name] = ("eleuther_eval", render_values(header, _SECTIONS, values))
    values = inference_values(find_checkpoint("llama2/7B"))
    del values["tokenizer"]
    apply(values, _QUANTIZE)
    header = (f"Weights: {download(find_checkpoint('llama2/7B'))}", "Run: tune run quantize --config quantization")
    configs["quantization"] = ("quantize", render_values(header, _SECTIONS, values))
    return configs
