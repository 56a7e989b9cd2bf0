"""Tiny models and checkpoint folders for the tests of this area."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

SIZES = {"vocab_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 32, "max_seq_len": 64}
HF_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def build_llama(seed: int = 0) -> nn.Module:
    from torchtune.models.llama3 import llama3

    torch.manual_seed(seed)
    model = llama3(**SIZES, intermediate_dim=128)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def build_lora_llama(seed: int = 0) -> nn.Module:
    from torchtune.models.llama3 import lora_llama3

    torch.manual_seed(seed)
    model = lora_llama3(
        ["q_proj", "k_proj", "v_proj", "output_proj"],
        apply_lora_to_mlp=True,
        **SIZES,
        intermediate_dim=128,
        lora_rank=4,
        lora_alpha=8,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


LORA_CONFIG = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "k_proj", "v_proj", "output_proj", "w1", "w2", "w3"],
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
}


@pytest.fixture
def llama() -> Callable[..., nn.Module]:
    return build_llama


@pytest.fixture
def lora_llama() -> Callable[..., nn.Module]:
    return build_lora_llama


@pytest.fixture
def lora_config() -> dict:
    return dict(LORA_CONFIG)


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    """A model in Hugging Face's layout, with the files that come beside the weights."""
    from safetensors.torch import save_file

    from torchtune.models.convert_weights import tune_to_hf

    folder = tmp_path / "base"
    folder.mkdir()
    converted = tune_to_hf(build_llama().state_dict(), num_heads=4, num_kv_heads=2, dim=32)
    save_file({key: value.contiguous() for key, value in converted.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "original").mkdir()
    (folder / "original" / "tokenizer.model").write_text("IQ== 0")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("")
    return folder
