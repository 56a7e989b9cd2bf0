"""Gemma 3, Qwen3 MoE, gpt-oss, SmolLM 3, Phi-4-mini, Granite 4 and Mistral's models with Tekken, beside their parity."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from tests.parity.test_dense_decoders import TOLERANCE, make_pair
from torchtune.config import instantiate
from torchtune.data import Message, ToolCall
from torchtune.data.formats import get_format
from torchtune.models import from_pretrained
from torchtune.models._builders import SizeRows
from torchtune.models._dense import Adapter
from torchtune.models._families import spec_from_hf_config
from torchtune.models.gemma3 import gemma3_tokenizer
from torchtune.models.gpt_oss._convert_weights import dequantize_mxfp4, gpt_oss_plain
from torchtune.modules.peft import get_adapter_params, get_merged_lora_ckpt
from torchtune.training import FullModelHFCheckpointer

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
FAMILIES = ("gemma3", "qwen3_moe", "gpt_oss", "smollm3", "phi4_mini", "granite4", "mistral")
# Builder -> billions of parameters, as the rows of sizes have them from the model cards (Gemma 3: without the image encoder).
SIZES = {
    f"{family}.{name}": billions
    for family in FAMILIES
    for rows in vars(importlib.import_module(f"torchtune.models.{family}")).values()
    if isinstance(rows, SizeRows)
    for name, billions in rows.billions.items()
}


def test_every_size_has_its_number_of_parameters() -> None:
    assert len(SIZES) == 17


@pytest.mark.parametrize("name", list(SIZES))
def test_sizes_are_those_of_the_model_cards(name: str) -> None:
    family, builder = name.split(".")
    module = importlib.import_module(f"torchtune.models.{family}")
    lora = {"lora_attn_modules": ["q_proj"], "apply_lora_to_mlp": True}
    with torch.device("meta"):
        full = sum(p.numel() for p in getattr(module, builder)().parameters())
        adapted = getattr(module, f"lora_{builder}")(**lora)
    assert full / 1e9 == pytest.approx(SIZES[name], rel=5e-3)
    adapters = get_adapter_params(adapted)
    assert sum(p.numel() for p in adapted.parameters()) == full + sum(p.numel() for p in adapters.values())
    kinds = 8 if not any("experts" in key for key in adapters) else 2 + 6
    assert len(adapters) == kinds * len(adapted.layers)


@pytest.mark.parity
def test_four_bit_experts_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 8, 2, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(120, 134, (3, 8, 2), dtype=torch.uint8, generator=generator)
    theirs = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
    ours = dequantize_mxfp4(blocks, scales)
    assert ours.shape == (3, 64, 8) and torch.equal(ours, theirs)


def test_a_published_gpt_oss_checkpoint_loads(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 32}
    make_pair("gpt_oss", **sizes).hf.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    expected: dict[str, torch.Tensor] = {}
    for key in [key for key in weights if key.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inner, outer = weights.pop(key).shape
        shape = (experts, outer, inner // 32)
        weights[key + "_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
        weights[key + "_scales"] = torch.randint(118, 124, shape, dtype=torch.uint8, generator=generator)
        expected[key] = dequantize_mxfp4(weights[key + "_blocks"], weights[key + "_scales"])
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = from_pretrained(tmp_path, dtype=torch.bfloat16).layers[1].mlp.experts
    gate_up = expected["model.layers.1.mlp.experts.gate_up_proj"]
    assert torch.equal(found.gate_proj, gate_up[..., ::2]) and torch.equal(found.up_proj, gate_up[..., 1::2])
    assert torch.equal(found.down_proj, expected["model.layers.1.mlp.experts.down_proj"])
    weights.pop("model.layers.0.mlp.experts.down_proj_scales")
    with pytest.raises(ValueError, match=r"lacks \['model.layers.0.mlp.experts.down_proj_scales'\]"):
        gpt_oss_plain(weights)


def test_the_text_part_of_gemma3_loads_out_of_a_checkpoint_with_images(tmp_path: Path) -> None:
    pair = make_pair("gemma3")
    state = {
        f"language_model.{key}": value.clone() for key, value in pair.state_dict().items() if key != "lm_head.weight"
    }
    save_file({**state, "vision_tower.patch.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    config = {
        "model_type": "gemma3",
        "text_config": pair.config,
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = torch.randint(3, 67, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path).eval()(tokens), pair.hf(tokens).logits, **TOLERANCE)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["gemma3", "qwen3_moe", "gpt_oss", "granite4", "phi4_mini_long", "smollm3"])
def test_checkpoints_written_by_config_json_load_in_transformers(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    source = tmp_path / "source"
    pair = make_pair(name)
    pair.hf.save_pretrained(source)
    checkpointer = FullModelHFCheckpointer(str(source), [], "AUTO", str(tmp_path / "out"))
    model = pair.tune()
    model.load_state_dict(checkpointer.load_checkpoint()["model"])
    with torch.no_grad():
        model.norm.scale.mul_(1.5)
    checkpointer.save_checkpoint({"model": model.state_dict()}, epoch=0, max_shard_size="60KB")
    saved = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out" / "epoch_0", attn_implementation="eager", dtype=torch.float32
    ).eval()
    tokens = torch.randint(3, 67, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), saved(tokens).logits, **TOLERANCE)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_adapters_of_experts_merge_into_their_weights(name: str) -> None:
    pair = make_pair(name)
    adapter = Adapter(frozenset({"q_proj", "w1", "w2", "w3"}), rank=2, alpha=4.0)
    model, plain = pair.tune(adapter, strict=False), pair.tune()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in get_adapter_params(model).values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    tokens = torch.randint(3, 67, (2, 9))
    before = plain(tokens)
    plain.load_state_dict(get_merged_lora_ckpt(dict(model.state_dict()), rank=2, alpha=4.0))
    torch.testing.assert_close(plain(tokens), model(tokens), atol=2e-5, rtol=1e-4)
    assert (plain(tokens) - before).abs().max() > 0.05


def test_mamba_layers_are_refused() -> None:
    config = make_pair("granite4").config | {"layer_types": ["attention", "mamba", "attention"]}
    with pytest.raises(ValueError, match=r"layers of type \['mamba'\]"):
        spec_from_hf_config(config)


def _gemma3_files(folder: Path) -> str:
    """A byte-level tokenizer with Gemma 3's control tokens."""
    template = (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    )
    return _files(folder, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), template)


def _files(folder: Path, names: tuple[str, ...], template: str) -> str:
    """A byte-level tokenizer with these control tokens, BOS and EOS first."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": names[0], "eos_token": names[1], "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder / "tokenizer.json")


def test_a_family_without_tools_writes_them_by_the_convention_it_is_given(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    call = ToolCall("add", {"a": 1}, "call_1")
    messages = [
        Message("user", "1 + 1?"),
        Message("assistant", "", tool_calls=[call]),
        Message("tool", "2", tool_call_id="call_1"),
        Message("assistant", "Two."),
    ]
    path = _gemma3_files(tmp_path)
    options: dict[str, Any] = {"train_on": "sampled", "format_options": {"tool_convention": "hermes"}}
    tokenizer = gemma3_tokenizer(path, chat_format="gemma3", **options)
    tokens, mask = tokenizer.tokenize_messages(messages, tools=tools)
    text = tokenizer.decode(tokens, skip_special_tokens=False)
    assert text.startswith("<bos><start_of_turn>user\n") and '<tool_call>\n{"name": "add"' in text
    trained = tokenizer.decode([t for t, masked in zip(tokens, mask, strict=True) if not masked], False)
    assert trained.count("<end_of_turn>") == 2 and "Two." in trained and "1 + 1?" not in trained
    parsed = tokenizer.parse_tokens(
        tokenizer.encode('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', False, False)
    )
    assert [(c.name, c.arguments) for c in parsed.tool_calls] == [("add", {"a": 1})]
    with pytest.raises(ValueError):
        gemma3_tokenizer(path).tokenize_messages(messages, tools=tools)


@pytest.mark.parametrize(
    ("config", "call"),
    [
        ("ministral/8B", '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "'),
        ("mistral_nemo/12B", '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "'),
        ("mistral_small/24B", '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "'),
        ("phi4_mini/3.8B", '<|assistant|><|tool_call|>[{"name": "add", "arguments": {"a": 1}}]<|/tool_call|><|end|>'),
    ],
)
def test_openai_rows_are_trained_as_the_config_says(tmp_path: Path, config: str, call: str) -> None:
    values = OmegaConf.load(CONFIGS / f"{config}_lora_tool_calling.yaml").tokenizer
    controls = get_format(values.chat_format).controls
    values.path = _files(tmp_path, tuple(sorted(controls, key=lambda c: c not in ("<s>", "</s>"))), "{{ messages }}")
    tokenizer = instantiate(values)
    messages = [
        Message("system", "Be kind."),
        Message("user", "1 + 1?"),
        Message("assistant", "", tool_calls=[ToolCall("add", {"a": 1}, "call_oIHazX6yQrB8hUwl4cRilFKj")]),
        Message("tool", "2", tool_call_id="call_oIHazX6yQrB8hUwl4cRilFKj"),
        Message("assistant", "Two."),
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    tokens, mask = tokenizer.tokenize_messages(messages, tools=tools)
    assert call in tokenizer.decode(tokens, skip_special_tokens=False)
    trained = tokenizer.decode([t for t, masked in zip(tokens, mask, strict=True) if not masked], False)
    assert "Two." in trained and '"add"' in trained and "1 + 1?" not in trained and "Be kind" not in trained
    calls = tokenizer.parse_tokens(tokens[mask.index(False) : mask.index(True, mask.index(False))]).tool_calls
    assert [(c.name, c.arguments) for c in calls] == [("add", {"a": 1})]
