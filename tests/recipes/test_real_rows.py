"""LoRA on real rows, with a small random Llama and Qwen in Hugging Face form: train, kill, resume, load elsewhere.

Needs the real vocabularies and rows: ``TORCHTUNE_VOCAB_DIR`` and ``TORCHTUNE_ROWS_DIR`` name their folders.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from _runs import Run, command, logged, run_until

pytestmark = [pytest.mark.recipes, pytest.mark.slow, pytest.mark.parity]

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}
ROWS = {
    "glaive": ("glaive_toolcall_en_demo.json", "conversations", "sharegpt", {}),
    "tau": ("tau_bench_airline_gpt4o_80.jsonl", "messages", "openai", {"tools": "tau_bench_airline_tools.json"}),
    "trl": ("trl_toolcall.jsonl", "messages", "openai", {"split": "train[:8]"}),
}


@pytest.fixture
def rows_dir() -> Path:
    folder = os.environ.get("TORCHTUNE_ROWS_DIR")
    if not folder:
        pytest.skip("TORCHTUNE_ROWS_DIR is not set")
    return Path(folder)


def qwen_files(ranks: Path, folder: Path) -> None:
    """vocab.json and merges.txt from the ranks, each merge being the last pair that makes its token."""
    alphabet = byte_alphabet()
    lines = (line.split() for line in ranks.read_text().splitlines())
    rank = {base64.b64decode(token): int(number) for token, number in lines}
    spell = {token: "".join(alphabet[b] for b in token) for token in rank}
    (folder / "vocab.json").write_text(json.dumps({spell[t]: r for t, r in rank.items()}, ensure_ascii=False))
    merges = ["#version: 0.2"]
    for token, number in sorted(rank.items(), key=lambda pair: pair[1]):
        if len(token) < 2:
            continue
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            pairs = [(rank.get(a + b, number), i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))]
            best, at = min(pairs)
            assert best < number
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        merges.append(" ".join(spell_bytes(part, alphabet) for part in parts))
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")


def spell_bytes(token: bytes, alphabet: dict[int, str]) -> str:
    return "".join(alphabet[b] for b in token)


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def checkpoint(family: str, vocab_dir: Path, folder: Path) -> dict[str, Any]:
    """Writes a small random model; gives the parts of the config that are the family's."""
    import transformers

    folder.mkdir()
    torch.manual_seed(0)
    if family == "llama":
        config = transformers.LlamaConfig(**SIZES, vocab_size=128256, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, rms_norm_eps=1e-5)  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        (folder / "tokenizer.model").write_bytes((vocab_dir / "llama3.tokenizer.model").read_bytes())
        model = {"_component_": "torchtune.models.llama3.lora_llama3", "vocab_size": 128256, "rope_base": 500000}
        tokenizer = {"_component_": "torchtune.models.llama3.llama3_tokenizer", "path": f"{folder}/tokenizer.model"}
        tokenizer["chat_format"] = "llama3_1"
        model_type = "LLAMA3"
    else:
        config = transformers.Qwen2Config(**SIZES, vocab_size=151936, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, rms_norm_eps=1e-6, tie_word_embeddings=True)  # fmt: skip
        transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
        qwen_files(vocab_dir / "qwen.tiktoken", folder)
        model = {"_component_": "torchtune.models.qwen2.lora_qwen2", "vocab_size": 151936, "rope_base": 1000000.0, "norm_eps": 1e-6, "tie_word_embeddings": True}  # fmt: skip
        tokenizer = {"_component_": "torchtune.models.qwen2_5.qwen2_5_tokenizer", "path": f"{folder}/vocab.json", "merges_file": f"{folder}/merges.txt"}  # fmt: skip
        model_type = "QWEN2"
    model |= {
        "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 128, "max_seq_len": 4096,
        "lora_attn_modules": ["q_proj", "v_proj"], "apply_lora_to_mlp": True, "lora_rank": 4, "lora_alpha": 8,
    }  # fmt: skip
    tokenizer |= {"max_seq_len": 512, "train_on": "sampled"}
    checkpointer = {
        "_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": str(folder),
        "checkpoint_files": ["model.safetensors"], "model_type": model_type, "output_dir": "${output_dir}",
    }  # fmt: skip
    return {"model": model, "tokenizer": tokenizer, "checkpointer": checkpointer}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_adapter_training_on_real_rows(
    family: str, rows: str, vocab_dir: Path, rows_dir: Path, run: Run, tmp_path: Path
) -> None:
    import transformers
    import yaml

    file, column, style, extra = ROWS[rows]
    extra = {k: f"{rows_dir}/{v}" if k == "tools" else v for k, v in extra.items()}
    dataset = {
        "_component_": "torchtune.datasets.chat_dataset", "source": "json", "data_files": f"{rows_dir}/{file}",
        "conversation_column": column, "conversation_style": style, "split": "train", **extra,
    }  # fmt: skip
    config = {
        **checkpoint(family, vocab_dir, tmp_path / "base"), "dataset": dataset, "output_dir": f"{tmp_path}/whole",
        "seed": 1, "shuffle": True, "batch_size": 2, "epochs": 1, "max_steps_per_epoch": 4, "save_every_n_steps": 2,
        "optimizer": {"_component_": "torch.optim.AdamW", "lr": 1e-3}, "device": "cpu", "dtype": "fp32",
        "loss": {"_component_": "torchtune.modules.loss.LinearCrossEntropyLoss"}, "resume_from_checkpoint": False,
        "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": "${output_dir}/logs"},
    }  # fmt: skip
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(config))
    recipe = ("lora_finetune_single_device", str(tmp_path / "lora.yaml"))
    run(*recipe)
    killed = f"output_dir={tmp_path}/killed"
    run_until(tmp_path / "killed" / "step_2" / "torchtune_checkpoint.json", command(*recipe, killed), tmp_path)
    run(*recipe, killed, "resume_from_checkpoint=true")
    assert len(logged(tmp_path / "whole")) == 4
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "epoch_0")
    assert model.config.vocab_size in (128256, 151936)
