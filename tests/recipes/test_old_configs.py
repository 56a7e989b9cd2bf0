"""Configs as users of torchtune 0.6 wrote them: nothing but paths is changed, and they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from _tiny import ASSETS, stop_after
from omegaconf import OmegaConf

pytestmark = pytest.mark.recipes

# The keys, and those of the sections, are those of torchtune's own configs of that version; the model is a small one.
COMMON = """
output_dir: {out}
tokenizer:
  _component_: torchtune.models.qwen2.qwen2_tokenizer
  path: {assets}/model/vocab.json
  merges_file: {assets}/model/merges.txt
  special_tokens_path: {assets}/model/tokenizer.json
  max_seq_len: {length}
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: {assets}/model
  checkpoint_files: [model.safetensors]
  recipe_checkpoint: null
  output_dir: ${{output_dir}}
  model_type: QWEN2
resume_from_checkpoint: False
dataset:
  _component_: torchtune.datasets.chat_dataset
  source: json
  data_files: {data}
  conversation_column: conversations
  conversation_style: sharegpt
  split: train
  packed: {packed}  # True increases speed
seed: null
shuffle: True
batch_size: 2
epochs: 1
max_steps_per_epoch: 2
gradient_accumulation_steps: 2  # Use to increase effective batch size
clip_grad_norm: null
compile: False  # torch.compile the model + loss, True increases speed + decreases memory
loss:
  _component_: torchtune.modules.loss.CEWithChunkedOutputLoss
device: cpu
dtype: fp32
enable_activation_checkpointing: True  # True reduces memory
enable_activation_offloading: False  # True reduces memory
log_every_n_steps: 1
log_peak_memory_stats: True
log_level: INFO  # DEBUG, WARN, etc.
profiler:
  _component_: torchtune.training.setup_torch_profiler
  enabled: {profile}
  output_dir: ${{output_dir}}/profiling_outputs
  cpu: True
  cuda: True
  profile_memory: False
  with_stack: False
  record_shapes: True
  with_flops: False
  wait_steps: 0
  warmup_steps: 1
  active_steps: 1
  num_cycles: 1
"""
SIZE = """
  vocab_size: 1024
  num_layers: 4
  num_heads: 4
  num_kv_heads: 2
  embed_dim: 128
  intermediate_dim: 384
  max_seq_len: 1024
  rope_base: 10000
  norm_eps: 1.0e-6
  tie_word_embeddings: True
"""
FULL = f"""
model:
  _component_: torchtune.models.qwen2.qwen2{SIZE}
optimizer:
  _component_: torch.optim.AdamW
  fused: True
  lr: 2e-5
optimizer_in_bwd: False
"""
LORA = f"""
model:
  _component_: torchtune.models.qwen2.lora_qwen2
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  lora_rank: 8  # higher increases accuracy and memory
  lora_alpha: 16  # usually alpha=2*rank
  lora_dropout: 0.0
  apply_lora_to_output: False{SIZE}
save_adapter_weights_only: False
optimizer:
  _component_: torch.optim.AdamW
  fused: True
  weight_decay: 0.01
  lr: 3e-4
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
"""
VALIDATED = """
run_val_every_n_steps: 1
dataset_val:
  _component_: torchtune.datasets.chat_dataset
  source: json
  data_files: ${dataset.data_files}
  conversation_column: conversations
  conversation_style: sharegpt
  split: train[95%:]
batch_size_val: ${batch_size}
custom_sharded_layers: ['tok_embeddings', 'output']  # Layers to shard separately (useful for large vocab size models)
fsdp_cpu_offload: False
"""
STDOUT = "metric_logger: {_component_: torchtune.training.metric_logging.StdoutLogger}\n"
DISK = "metric_logger: {_component_: torchtune.training.metric_logging.DiskLogger, log_dir: '${output_dir}/logs'}\n"
WANDB = "metric_logger: {_component_: torchtune.training.metric_logging.WandBLogger, project: torchtune, log_dir: '${output_dir}/logs'}\n"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": (FULL + VALIDATED + DISK, {}),
    "lora-profiled": (LORA + STDOUT, {"profile": True}),
    "qlora": (
        LORA.replace("  lora_dropout", "  quantize_base: True\n  lora_dropout") + STDOUT + "low_cpu_ram: False\n",
        {},
    ),
    "packed": (LORA + DISK, {"packed": True, "length": 512}),
    "wandb": (FULL + WANDB, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_of_0_6_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recipes.finetune import FinetuneRecipe

    if kind == "wandb":
        pytest.importorskip("wandb")
        monkeypatch.setenv("WANDB_MODE", "offline")
    text, settings = KINDS[kind]
    rows = [
        {"conversations": [{"from": "human", "value": f"Add {i} and 1."}, {"from": "gpt", "value": str(i + 1)}]}
        for i in range(400)
    ]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows))
    values = {
        "packed": False,
        "length": "null",
        "profile": False,
        "out": tmp_path / "out",
        "data": data,
        "assets": ASSETS,
    }
    cfg = OmegaConf.create(yaml.safe_load(COMMON.format(**values | settings) + text))
    cfg.optimizer.lr = float(cfg.optimizer.lr)  # as the recipes' own reader of YAML has it
    cfg.epochs = 2
    recipe = FinetuneRecipe(cfg)  # type: ignore[arg-type]
    recipe.setup()
    stop_after(recipe, 2)
    recipe.cleanup()
    out = tmp_path / "out"
    assert (out / "epoch_0" / "model.safetensors").is_file() or any((out / "epoch_0").glob("model*"))
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [(row["step"], name, row[name]) for row in logged for name in ("loss", "val_loss") if name in row]
    validated = [(1, "val_loss"), (2, "val_loss")] if kind == "full" else []
    assert sorted((step, name) for step, name, _ in losses) == sorted([(1, "loss"), (2, "loss"), *validated])
    assert all(0 < loss < 20 for *_, loss in losses)
    if kind == "lora-profiled":
        assert "Step 1 | loss:" in capsys.readouterr().out
        assert list((out / "profiling_outputs").rglob("*.json*")) != []
    if kind == "wandb":
        assert list((out / "logs").rglob("*.wandb")) != []
    cfg.resume_from_checkpoint = True
    cfg.profiler.enabled = False
    resumed = FinetuneRecipe(cfg)  # type: ignore[arg-type]
    resumed.setup()
    assert (resumed.global_step, resumed.epochs_run) == (2, 1)
    resumed.train()
    resumed.cleanup()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]


def test_the_keys_of_these_configs_are_read(recwarn: pytest.WarningsRecorder) -> None:
    from recipes.finetune import CONFIG_KEYS
    from torchtune.config import check_keys

    for text, _ in KINDS.values():
        values = dict.fromkeys(("packed", "length", "profile", "out", "data", "assets"), "x")
        cfg = OmegaConf.create(yaml.safe_load(COMMON.format(**values) + text))
        assert check_keys(cfg, CONFIG_KEYS) == []  # type: ignore[arg-type]
