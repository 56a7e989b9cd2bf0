"""The config of the recipe ``generate``."""

from __future__ import annotations

from typing import Any

from recipes.catalog._render import render_values

_FOLDER = "/tmp/Llama-2-7b-hf"
_SECTIONS = (
    ("", ("output_dir",)),
    ("", ("model",)),
    ("", ("checkpointer",)),
    ("", ("tokenizer",)),
    ("What to answer; `messages` and `tools` in OpenAI form are for whole conversations", ("prompt",)),
    ("", ("max_new_tokens", "temperature", "top_k", "enable_kv_cache")),
    ("", ("device", "dtype", "seed", "quantizer")),
)


def generation_configs() -> dict[str, str]:
    """Name and text of each config."""
    values: dict[str, Any] = {
        "output_dir": "./",
        "model": {"_component_": "torchtune.models.llama2.llama2_7b"},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": f"{_FOLDER}/",
            "checkpoint_files": [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)],
            "output_dir": "${output_dir}",
            "model_type": "LLAMA2",
        },
        "tokenizer": {
            "_component_": "torchtune.models.llama2.llama2_tokenizer",
            "path": f"{_FOLDER}/tokenizer.model",
            "max_seq_len": None,
            "prompt_template": None,
        },
        "prompt": {"system": None, "user": "Tell me a joke."},
        "max_new_tokens": 300,
        "temperature": 0.6,
        "top_k": 300,
        "enable_kv_cache": True,
        "device": "cuda",
        "dtype": "bf16",
        "seed": 1234,
        "quantizer": None,
    }
    header = (
        f'Weights: tune download meta-llama/Llama-2-7b-hf --output-dir {_FOLDER} --ignore-patterns "*.safetensors" '
        "--hf-token <HF_TOKEN>",
        'Run: tune run generate --config generation prompt.user="Tell me a joke."',
    )
    return {"generation": render_values(header, _SECTIONS, values)}
