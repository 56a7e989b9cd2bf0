"""What is saved loads elsewhere: full models in transformers, adapters in peft, with the same logits."""

from __future__ import annotations

import json

import pytest
import torch

from torchtune.training import (
    ADAPTER_CONFIG,
    ADAPTER_KEY,
    MODEL_KEY,
    FullModelHFCheckpointer,
    get_adapter_config,
)

pytestmark = pytest.mark.parity
TOKENS = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
SIZES = {"vocab_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 32, "intermediate_dim": 48}
COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def _llama(**lora):
    from torchtune.models.llama3 import llama3, lora_llama3

    sizes = {**SIZES, "max_seq_len": 64, "rope_base": 10_000}
    return lora_llama3(**lora, **sizes) if lora else llama3(**sizes)


def _qwen(**lora):
    from torchtune.models.qwen2 import lora_qwen2, qwen2

    sizes = {**SIZES, "max_seq_len": 64, "tie_word_embeddings": True, "rope_base": 10_000, "norm_eps": 1e-6}
    return lora_qwen2(**lora, **sizes) if lora else qwen2(**sizes)


def _qwen3(**lora):
    from torchtune.models.qwen3._component_builders import lora_qwen3, qwen3

    sizes = {**SIZES, "max_seq_len": 64, "head_dim": 16, "tie_word_embeddings": False, "rope_base": 10_000}
    return lora_qwen3(**lora, **sizes) if lora else qwen3(**sizes)


FAMILIES = {
    "LLAMA3": (_llama, "LlamaConfig", {"rms_norm_eps": 1e-5, "tie_word_embeddings": False}),
    "QWEN2": (_qwen, "Qwen2Config", {"rms_norm_eps": 1e-6, "tie_word_embeddings": True}),
    "QWEN3": (_qwen3, "Qwen3Config", {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "head_dim": 16}),
}


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    """A random model of transformers on disk: (our builder, model type, its folder)."""
    import transformers

    build, config_class, extra = FAMILIES[request.param]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(
        **COMMON, **extra, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}
    )
    config.dtype = torch.float32
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.1)
    model.save_pretrained(tmp_path / "hf")
    return build, request.param, tmp_path / "hf"


def _logits_of_folder(folder):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def _trained(model):
    """The model with other weights, as training leaves it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def test_full_checkpoint_loads_in_transformers(family, tmp_path):
    build, model_type, source = family
    checkpointer = FullModelHFCheckpointer(str(source), ["model.safetensors"], model_type, str(tmp_path / "out"))
    model = build()
    model.load_state_dict(checkpointer.load_checkpoint()[MODEL_KEY])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(TOKENS), _logits_of_folder(source), atol=1e-5, rtol=1e-5)
    _trained(model)
    checkpointer.save_checkpoint({MODEL_KEY: model.state_dict()}, epoch=0, max_shard_size="20KB")
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), _logits_of_folder(tmp_path / "out" / "epoch_0"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_adapter_loads_in_peft(family, tmp_path, use_dora):
    import transformers
    from peft import PeftModel

    from torchtune.modules.peft import get_adapter_params, get_adapter_state_dict, set_trainable_params

    build, model_type, source = family
    checkpointer = FullModelHFCheckpointer(str(source), ["model.safetensors"], model_type, str(tmp_path / "out"))
    model = build(
        lora_attn_modules=["q_proj", "k_proj", "v_proj", "output_proj"],
        apply_lora_to_mlp=True,
        lora_rank=4,
        lora_alpha=8,
        use_dora=use_dora,
    )
    model.load_state_dict(checkpointer.load_checkpoint()[MODEL_KEY], strict=False)
    for module in model.modules():
        if hasattr(module, "initialize_dora_magnitude"):
            module.initialize_dora_magnitude()
    set_trainable_params(model, get_adapter_params(model))
    _trained(model)
    state = {ADAPTER_KEY: get_adapter_state_dict(model.state_dict()), ADAPTER_CONFIG: get_adapter_config(model)}
    checkpointer.save_checkpoint(state, epoch=0, adapter_only=True)
    folder = tmp_path / "out" / "epoch_0"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(source)
    base = transformers.AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(base, folder).eval()(TOKENS).logits
        torch.testing.assert_close(model(TOKENS), theirs, atol=1e-5, rtol=1e-5)
        if not use_dora:  # transformers itself doesn't find the magnitudes in files of peft
            torch.testing.assert_close(model(TOKENS), _logits_of_folder(folder), atol=1e-5, rtol=1e-5)


def test_merged_checkpoint_loads_in_transformers_and_its_adapter_in_peft(family, tmp_path):
    import transformers
    from omegaconf import OmegaConf
    from peft import PeftModel

    from torchtune.modules.peft import get_adapter_params, set_trainable_params
    from torchtune.training import CheckpointClient, TrainingProgress

    build, model_type, source = family
    model = build(lora_attn_modules=["q_proj", "v_proj"], apply_lora_to_mlp=True, lora_rank=4, lora_alpha=8)
    settings = {"checkpoint_dir": str(source), "checkpoint_files": ["model.safetensors"], "model_type": model_type}
    checkpointer = FullModelHFCheckpointer(**settings, output_dir=str(tmp_path / "out"))
    model.load_state_dict(checkpointer.load_checkpoint()[MODEL_KEY], strict=False)
    set_trainable_params(model, get_adapter_params(model))
    _trained(model)
    client = CheckpointClient(OmegaConf.create({"checkpointer": settings}), checkpointer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    client.save_checkpoint(model, optimizer, TrainingProgress(0, 1, 1, -1), 0, get_adapter_config(model))
    folder = tmp_path / "out" / "epoch_0"
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), _logits_of_folder(folder), atol=1e-5, rtol=1e-5)
        base = transformers.AutoModelForCausalLM.from_pretrained(source)
        theirs = PeftModel.from_pretrained(base, folder / "adapter").eval()(TOKENS).logits
        torch.testing.assert_close(model(TOKENS), theirs, atol=1e-5, rtol=1e-5)
