"""Loading maps and saving streams: neither holds the model a second time. Memory is measured in a process of its own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from torchtune.training.checkpointing import _folders
from torchtune.training.checkpointing._folders import HashedFile, sha256, torch_save

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
MB = 1 << 20

_COMMON = """
import json, sys, torch
from torchtune import training
from torchtune.models.llama3 import llama3
def own():  # memory of the process in bytes, mapped files left out
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))
folder, out = sys.argv[1:3]
"""
_LOAD = """
checkpointer = training.FullModelHFCheckpointer(folder, [], "LLAMA3", out)
before = own()
weights = checkpointer.load_checkpoint()["model"]
with training.set_default_dtype(torch.bfloat16), torch.device("meta"):
    model = llama3(4096, num_layers=4, num_heads=8, num_kv_heads=2, embed_dim=512, max_seq_len=64, intermediate_dim=4096)
training.load_from_full_model_state_dict(model, weights, torch.device("cpu"), strict=True)
loaded, compiler = own() - before, "torch._dynamo" in sys.modules
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(1)
print(json.dumps([loaded, own() - before, compiler]))
"""
_SAVE = """
from torchtune.training.checkpointing import _folders
checkpointer = training.FullModelHFCheckpointer(folder, [], "PHI3_MINI", out)
state = checkpointer.load_checkpoint()
checkpointer.save_checkpoint({"model": {"norm.scale": state["model"]["norm.scale"]}}, epoch=0)  # what is loaded once
before, most, write = own(), 0, _folders.HashedFile.write
def measured(file, data):
    global most
    most = max(most, own() - before)
    return write(file, data)
_folders.HashedFile.write = measured
checkpointer.save_checkpoint(state, epoch=1, max_shard_size="16MB")
print(json.dumps(most))
"""
_NORMS = {"model.norm.weight": (512,)} | {
    f"model.layers.{{}}.{name}_layernorm.weight": (512,) for name in ("input", "post_attention")
}
_TOP = {"model.embed_tokens.weight": (4096, 512), "lm_head.weight": (4096, 512)} | _NORMS
_LLAMA = _TOP | {
    f"model.layers.{{}}.{name}.weight": shape
    for name, shape in {
        **dict.fromkeys(("self_attn.q_proj", "self_attn.o_proj"), (512, 512)),
        **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (128, 512)),
        **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (4096, 512)),
        "mlp.down_proj": (512, 4096),
    }.items()
}
_PHI3 = _TOP | {
    f"model.layers.{{}}.{name}.weight": shape
    for name, shape in {
        "self_attn.qkv_proj": (768, 512),
        "self_attn.o_proj": (512, 512),
        "mlp.gate_up_proj": (8192, 512),
        "mlp.down_proj": (512, 4096),
    }.items()
}


def write_base(folder: Path, shapes: dict[str, tuple[int, ...]], layers: int) -> Path:
    """Write a checkpoint of random weights; ``{}`` in a name stands for the layer. Gives the path of its weights."""
    folder.mkdir()
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 512}
    (folder / "config.json").write_text(json.dumps(sizes))
    names = {name.format(i): shape for name, shape in shapes.items() for i in range(layers if "{}" in name else 1)}
    path = folder / "model.safetensors"
    save_file({name: torch.randn(shape).bfloat16() for name, shape in names.items()}, path, {"format": "pt"})
    return path


def measure(script: str, folder: Path) -> list:
    command = [sys.executable, "-c", _COMMON + script, str(folder), str(folder.parent / "out")]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MB // 4)}  # memory that is freed doesn't count
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_proc
def test_loading_copies_only_reordered_weights_and_training_leaves_the_file_as_it_is(tmp_path):
    path = write_base(tmp_path / "base", _LLAMA, layers=4)
    size, before = path.stat().st_size, sha256(path)
    loaded, trained, compiler = measure(_LOAD, path.parent)
    reordered = 4 * (512 + 128) * 512 * 2
    assert size > 60e6
    assert loaded < reordered + 10 * MB
    assert trained > 0.9 * size  # what is written to becomes the process's own, and only that
    assert sha256(path) == before
    assert not compiler, "a model on the meta device made torch import its compiler, which takes longer than loading"


@needs_proc
def test_saving_never_holds_more_than_one_shard(tmp_path):
    path = write_base(tmp_path / "base", _PHI3, layers=6)  # every weight but one of a layer is put together anew
    assert path.stat().st_size > 80e6
    assert measure(_SAVE, path.parent) < 16e6
    assert len(list((tmp_path / "out" / "epoch_1").glob("*.safetensors"))) >= 6


def test_a_file_is_hashed_as_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(_folders, "_PIECE", 64)
    monkeypatch.setattr(_folders, "_UNFLUSHED", 200)
    parts = [os.urandom(n) for n in (0, 3, 64, 65, 1000, 1, 500)]
    with HashedFile(tmp_path / "x") as file:
        assert [file.write(part) for part in parts] == [len(part) for part in parts]
    assert (tmp_path / "x").read_bytes() == b"".join(parts)
    assert file.sha256 == sha256(tmp_path / "x")
    assert torch_save({"a": torch.arange(999)}, tmp_path / "y.pt") == sha256(tmp_path / "y.pt")
    assert torch.equal(torch.load(tmp_path / "y.pt")["a"], torch.arange(999))


def test_an_error_of_the_disk_at_an_early_flush_is_not_lost(tmp_path, monkeypatch):
    """The system tells such an error once: a flush after it says that all is well."""
    calls = 0

    def fails_once(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(_folders, "_UNFLUSHED", 200)
    monkeypatch.setattr(os, "fsync", fails_once)
    with pytest.raises(OSError, match="Input/output error"), HashedFile(tmp_path / "x") as file:
        file.write(bytes(1000))
