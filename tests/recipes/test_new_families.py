"""The finetune recipe on a tiny mixture of experts: its configs' way from checkpoint to adapter and merged model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _tiny import finetune, tiny_config

from torchtune.models import from_pretrained

pytestmark = [pytest.mark.recipes, pytest.mark.slow, pytest.mark.parity]


@pytest.mark.parametrize("kind", ["attention", "experts", "quantized experts", "all weights"])
def test_gpt_oss_trains_and_its_adapter_and_merged_model_load(kind: str, tmp_path: Path) -> None:
    experts = kind != "attention"
    lora = kind != "all weights"
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    sizes: dict[str, Any] = {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 32, "head_dim": 16}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    config = transformers.AutoConfig.for_model("gpt_oss", **sizes, num_experts_per_tok=2)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    adapter = {
        "lora_attn_modules": ["q_proj", "output_proj"],
        "apply_lora_to_mlp": experts,
        "lora_rank": 4,
        "quantize_base": kind == "quantized experts",
        "lora_alpha": 8,
    }
    model = {
        "_component_": f"torchtune.models.gpt_oss.{'lora_' if lora else ''}gpt_oss",
        **(adapter if lora else {}),
        "vocab_size": 1024,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "embed_dim": 64,
        "intermediate_dim": 32,
        "max_seq_len": 1024,
        "head_dim": 16,
        "num_experts": 4,
        "experts_per_token": 2,
    }
    cfg = tiny_config(tmp_path / "out", f"quickstart/tool_calling{'_lora' if lora else ''}", epochs=1, dtype="fp32")
    cfg.model = model
    cfg.checkpointer |= {"checkpoint_dir": str(tmp_path / "base"), "checkpoint_files": [], "model_type": "AUTO"}
    losses = [row["loss"] for row in finetune(cfg)]
    assert len(losses) == 2 and all(5 < loss < 9 for loss in losses)

    saved = tmp_path / "out" / "epoch_0"
    tokens = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        merged = from_pretrained(saved, max_seq_len=1024).eval()(tokens)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            saved, attn_implementation="eager", dtype=torch.float32
        )
        torch.testing.assert_close(merged, theirs.eval()(tokens).logits, atol=1e-5, rtol=1e-5)
        before = from_pretrained(tmp_path / "base", max_seq_len=1024).eval()(tokens)
        assert not torch.equal(merged, before)
        assert (saved / "adapter_model.pt").exists() == lora
        if kind == "quantized experts":  # the merged model stands on the base in NF4
            assert (saved / "adapter" / "adapter_model.safetensors").exists()
        if kind in ("quantized experts", "all weights"):
            return
        base = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "base", attn_implementation="eager", dtype=torch.float32
        )
        adapted = peft.PeftModel.from_pretrained(base, saved / "adapter").eval()
        torch.testing.assert_close(adapted(tokens).logits, merged, atol=1e-5, rtol=1e-5)
