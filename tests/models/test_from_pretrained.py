"""Models of any checkpoint folder: the same logits, little memory, clear errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.parity.test_dense_decoders import CONFIGS, TOLERANCE, make_pair
from torchtune.models import from_pretrained
from torchtune.modules.low_precision._nf4 import is_nf4
from torchtune.modules.peft import DoRALinear, get_adapter_params


def _folder(path: Path, name: str, **changes: Any) -> Any:
    pair = make_pair(name, **changes)
    pair.hf.save_pretrained(path, max_shard_size="40KB")
    return pair.hf


@pytest.mark.parity
@pytest.mark.parametrize("name", list(CONFIGS))
def test_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    theirs = _folder(tmp_path, name)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = torch.randint(3, 67, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path).eval()(tokens), theirs(tokens).logits, **TOLERANCE)


@pytest.mark.parametrize("name", ["llama3_2", "qwen3_moe", "gpt_oss"])
def test_adapters_start_at_nothing_on_a_loaded_base(tmp_path: Path, name: str) -> None:
    theirs = _folder(tmp_path, name)
    lora = {"lora_attn_modules": ["q_proj", "v_proj"], "apply_lora_to_mlp": True, "lora_rank": 4}
    model = from_pretrained(tmp_path, lora=lora).eval()
    assert not any(p.is_meta for p in model.parameters())
    adapters = get_adapter_params(model)
    assert len(adapters) >= 3 * 7 and any(p.count_nonzero() for p in adapters.values())
    tokens = torch.randint(3, 67, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, **TOLERANCE)


def test_dora_magnitudes_are_those_of_the_loaded_weights(tmp_path: Path) -> None:
    _folder(tmp_path, "llama2")
    model = from_pretrained(tmp_path, lora={"lora_attn_modules": ["q_proj"], "use_dora": True})
    layers = [module for module in model.modules() if isinstance(module, DoRALinear)]
    assert len(layers) == 3
    for layer in layers:
        torch.testing.assert_close(layer.magnitude, layer.weight.norm(dim=1))


@pytest.mark.parametrize("name", ["llama2", "gpt_oss"])
def test_a_quantized_base_is_near_the_plain_one_and_saves_as_it(tmp_path: Path, name: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16, "num_hidden_layers": 1}
    _folder(tmp_path, name, **sizes, **({"layer_types": ["sliding_attention"]} if name == "gpt_oss" else {}))
    lora = {"lora_attn_modules": ["q_proj"], "apply_lora_to_mlp": name == "gpt_oss", "quantize_base": True}
    plain, model = from_pretrained(tmp_path).eval(), from_pretrained(tmp_path, lora=lora).eval()
    assert sum(is_nf4(p) for p in model.parameters()) == 7
    tokens = torch.randint(3, 67, (2, 9))
    output = model(tokens)
    output.square().mean().backward()
    assert all(p.grad is not None for p in get_adapter_params(model).values())
    exact = plain(tokens)
    assert 0 < (output - exact).norm() / exact.norm() < 0.4
    state = model.state_dict()
    for key, value in plain.state_dict().items():
        assert state[key].shape == value.shape
        assert (state[key] - value).norm() <= 0.2 * value.norm()


def test_dtype_and_length_are_as_asked(tmp_path: Path) -> None:
    _folder(tmp_path, "qwen3")
    model = from_pretrained(tmp_path, dtype="bf16", max_seq_len=8)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="max_seq_len"):
        model(torch.zeros(1, 9, dtype=torch.long))


def _change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_errors_say_what_does_not_fit(tmp_path: Path) -> None:
    _folder(tmp_path, "llama2")
    _change_config(tmp_path, num_hidden_layers=4)
    with pytest.raises(ValueError, match="lacks weights of .*layers.3.attn"):
        from_pretrained(tmp_path)
    _change_config(tmp_path, num_hidden_layers=2)
    with pytest.raises(ValueError, match="weights for layers.2.attn"):
        from_pretrained(tmp_path)
    _change_config(tmp_path, num_hidden_layers=3, intermediate_size=80)
    with pytest.raises(ValueError, match="mlp.* of .* has the shape"):
        from_pretrained(tmp_path)
    _change_config(tmp_path, model_type="mamba")
    with pytest.raises(ValueError, match="model_type 'mamba'"):
        from_pretrained(tmp_path)
    next(tmp_path.glob("model-00002*")).unlink()
    _change_config(tmp_path, model_type="llama", intermediate_size=72)
    with pytest.raises(ValueError, match="No file with name: model-00002"):
        from_pretrained(tmp_path)
    for lora in ({}, {"lora_attn_modules": ["q_proj"], "rank": 3}):
        with pytest.raises(ValueError, match="no options of an adapter.*(lora_attn_modules|rank)"):
            from_pretrained(tmp_path, lora=lora)


class _Code:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("ran"),)


def test_code_in_weights_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _folder(tmp_path, "llama2")
    for path in [*tmp_path.glob("*.safetensors"), tmp_path / "model.safetensors.index.json"]:
        path.unlink()
    torch.save({"a": _Code()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Unable to load checkpoint from .*pytorch_model.bin"):
        from_pretrained(tmp_path)
    assert not Path("ran").exists()


def test_damaged_files_are_told(tmp_path: Path) -> None:
    _folder(tmp_path, "llama2")
    shard = next(tmp_path.glob("model-00002*"))
    whole = shard.read_bytes()
    for content, why in (
        (b"\xff" * 3000, "is no safetensors file"),
        (b"", "is no safetensors"),
        (whole[:-9], "ends within"),
    ):
        shard.write_bytes(content)
        with pytest.raises(ValueError, match=f"model-00002.*{why}"):
            from_pretrained(tmp_path)
    shard.write_bytes(whole)
    index = tmp_path / "model.safetensors.index.json"
    (tmp_path.parent / "elsewhere.safetensors").write_bytes(whole)
    for content, why in (
        ("[]", "expected an object"),
        ('{"weight_map": {"a": "../elsewhere.safetensors"}}', "elsewhere"),
    ):
        index.write_text(content)
        with pytest.raises(ValueError, match=why):
            from_pretrained(tmp_path)


_MEASURE = """
import re, sys, torch
from torchtune.models import from_pretrained
from torchtune.models._from_pretrained import read_layers
import torchtune.training.checkpointing, torchtune.training.precision

def status(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

from_pretrained(sys.argv[3])  # a tiny one, so that what torch loads once doesn't count
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew
before = status("VmRSS")
model = from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
print((status("VmHWM") - before) / sum(p.nbytes for p in model.parameters()))
"""


def write_checkpoint(folder: Path, dim: int, layers: int, vocab_size: int, dtype: torch.dtype) -> int:
    """Write a Llama checkpoint of two shards; gives its bytes."""
    config = {
        "model_type": "llama",
        "hidden_size": dim,
        "num_hidden_layers": layers,
        "vocab_size": vocab_size,
        "intermediate_size": 3 * dim,
        "num_attention_heads": 8,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "dtype": str(dtype)[6:],
    }
    (folder / "config.json").write_text(json.dumps(config))
    square, wide = (dim, dim), (3 * dim, dim)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab_size, dim), "model.norm.weight": (dim,)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": square for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": wide for name in ("gate", "up")}
        shapes |= {f"{prefix}mlp.down_proj.weight": wide[::-1]}
        shapes |= {f"{prefix}{name}_layernorm.weight": (dim,) for name in ("input", "post_attention")}
    shapes["lm_head.weight"] = (vocab_size, dim)
    names, weight_map = list(shapes), {}
    for number, keys in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({key: torch.full(shapes[key], 0.01, dtype=dtype) for key in keys}, folder / file)
        weight_map |= dict.fromkeys(keys, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def peak_of_loading(folder: Path, dtype: str) -> float:
    """Peak memory of ``from_pretrained`` in a process of its own, as a multiple of the weights."""
    tiny = folder / "tiny"
    tiny.mkdir(exist_ok=True)
    write_checkpoint(tiny, dim=16, layers=1, vocab_size=16, dtype=torch.float32)
    command = [sys.executable, "-c", _MEASURE, str(folder), dtype, str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "PermissionError" in done.stderr:
        pytest.skip("this system doesn't let a process reset its high-water mark")
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("stored, loaded", [("bfloat16", "bfloat16"), ("float32", "bfloat16")])
def test_peak_memory_is_little_more_than_the_weights(tmp_path: Path, stored: str, loaded: str) -> None:
    size = write_checkpoint(tmp_path, dim=512, layers=40, vocab_size=8192, dtype=getattr(torch, stored))
    assert size > 250e6
    peak = peak_of_loading(tmp_path, loaded)
    assert 0.95 < peak < 1.15


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_memory_of_two_gigabytes(tmp_path: Path) -> None:
    size = write_checkpoint(tmp_path, dim=2048, layers=16, vocab_size=32_000, dtype=torch.bfloat16)
    assert size > 2e9
    assert 0.95 < peak_of_loading(tmp_path, "bfloat16") < 1.15
