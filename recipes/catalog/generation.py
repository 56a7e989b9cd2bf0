"""The configs of the recipes ``generate``, ``dev/generate_v2`` and ``dev/generate_v2_distributed``."""

from __future__ import annotations

from typing import Any

from recipes.catalog._render import download, render_values
from recipes.catalog._values import apply, inference_values
from recipes.catalog.checkpoints import find_checkpoint

_SECTIONS = (
    ("", ("output_dir",)),
    ("", ("model", "tensor_parallel_plan")),
    ("", ("tokenizer",)),
    ("", ("checkpointer", "use_distributed_state_dict")),
    ("What to answer; `messages` and `tools` in OpenAI form are for whole conversations", ("prompt",)),
    ("", ("max_new_tokens", "temperature", "top_k", "enable_kv_cache")),
    ("", ("device", "dtype", "use_flex", "seed", "quantizer", "log_level")),
)
_ANSWER = "max_new_tokens=200 temperature=0.6 top_k=300 device=cuda dtype=bf16 seed=1234 log_level=INFO"
_GENERATE = "-log_level max_new_tokens=300 enable_kv_cache=true quantizer=null tokenizer.prompt_template=null"
_PLAN = "tensor_parallel_plan._component_=torchtune.models.llama3.base_llama_tp_plan"
_LARGE = f"{_PLAN} tokenizer.prompt_template=null tokenizer.max_seq_len=8192 checkpointer.recipe_checkpoint=null"
_LLAMA4 = (
    "-output_dir tensor_parallel_plan._component_=torchtune.models.llama4.decoder_only_tp_plan tokenizer.max_num_tiles=16 "
    "checkpointer.output_dir=./ use_distributed_state_dict=true use_flex=true"
)
_SHAKESPEARE = "You are a helpful assistant who responds like the author Shakespeare."
_STATUE = "https://cdn.britannica.com/61/93061-050-99147DCE/Statue-of-Liberty-Island-New-York-Bay.jpg"
_BABOON = "https://upload.wikimedia.org/wikipedia/commons/thumb/4/4c/Olive_baboon.jpg/330px-Olive_baboon.jpg"
_JOKE = {"system": None, "user": {"text": "Tell a joke."}}


def _picture(url: str) -> dict[str, Any]:
    return {"system": _SHAKESPEARE, "user": {"image": url, "text": "What is in this image?"}}


_CAPITAL = {"system": "You are a helpful and creative AI assistant.", "user": "What is the capital of France?"}
# name of the config, recipe, checkpoint, prompt, settings
GENERATIONS: tuple[tuple[str, str, str, dict[str, Any], str], ...] = (
    ("generation", "generate", "llama2/7B", {"system": None, "user": "Tell me a joke."}, _GENERATE),
    ("llama2/generation_v2", "dev/generate_v2", "llama2/7B", _CAPITAL, "tokenizer.max_seq_len=2048"),
    (
        "llama3_2_vision/11B_generation_v2",
        "dev/generate_v2",
        "llama3_2_vision/11B",
        _picture(_STATUE),
        "tokenizer.prompt_template=null tokenizer.max_seq_len=8192",
    ),
    ("llama3/70B_generation_distributed", "dev/generate_v2_distributed", "llama3/70B", _JOKE, _LARGE),
    ("llama3_1/70B_generation_distributed", "dev/generate_v2_distributed", "llama3_1/70B", _JOKE, _LARGE),
    ("llama3_3/70B_generation_distributed", "dev/generate_v2_distributed", "llama3_3/70B", _JOKE, _LARGE),
    (
        "llama4/scout_17B_16E_generation_distributed",
        "dev/generate_v2_distributed",
        "llama4/scout_17B_16E",
        _picture(_BABOON),
        _LLAMA4,
    ),
)


def generation_configs(waiting: frozenset[str]) -> dict[str, tuple[str, str]]:
    """Recipe and text of each config, by name, but for families that wait."""
    configs = {}
    for name, recipe, row, prompt, settings in GENERATIONS:
        checkpoint = find_checkpoint(row)
        if checkpoint.name.split("/")[0] in waiting:
            continue
        values = inference_values(checkpoint) | {"prompt": prompt}
        apply(values, f"{_ANSWER} {settings}")
        options = f"--nproc-per-node {checkpoint.processes} " if recipe.endswith("_distributed") else ""
        header = (f"Weights: {download(checkpoint)}", f"Run: tune run {options}{recipe} --config {name}")
        configs[name] = (recipe, render_values(header, _SECTIONS, values))
    return configs
