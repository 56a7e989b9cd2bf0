"""Checkpoints are complete or absent, and hold everything."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from torchtune.data.formats import get_format
from torchtune.training import (
    ADAPTER_CONFIG,
    ADAPTER_KEY,
    MODEL_KEY,
    OPT_KEY,
    FormattedCheckpointFiles,
    FullModelHFCheckpointer,
    FullModelMetaCheckpointer,
    FullModelTorchTuneCheckpointer,
    update_state_dict_for_classifier,
)
from torchtune.training.checkpointing import _folders, get_largest_iter_folder
from torchtune.training.checkpointing._checkpoint_client import with_resume_decided
from torchtune.training.checkpointing._utils import (
    check_outdir_not_in_ckptdir,
    prune_surplus_checkpoints,
    safe_torch_load,
)
from torchtune.training.checkpointing._weights import parse_size, read_safetensors, write_safetensors


def hf(base_dir: Path, out: Path | None = None, **options) -> FullModelHFCheckpointer:
    return FullModelHFCheckpointer(str(base_dir), ["model.safetensors"], "LLAMA3", str(out) if out else None, **options)


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def run_state(step: int = 1) -> dict:
    return {OPT_KEY: {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": []}, "steps_run": step}


def test_load_gives_the_models_weights(base_dir, llama):
    assert_same(hf(base_dir).load_checkpoint()[MODEL_KEY], llama().state_dict())


def test_sharded_save_and_load_give_back_every_bit(base_dir, llama, tmp_path):
    model = llama(seed=3)
    hf(base_dir, tmp_path / "out").save_checkpoint({MODEL_KEY: model.state_dict()}, epoch=0, max_shard_size="20KB")
    folder = tmp_path / "out" / "epoch_0"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in model.state_dict().values())
    for name, file in index["weight_map"].items():
        assert name in read_safetensors(folder / file)
    loaded = FullModelHFCheckpointer(str(folder), files, "LLAMA3").load_checkpoint()
    assert_same(loaded[MODEL_KEY], model.state_dict())


def test_torch_files_can_be_written_instead_of_safetensors(base_dir, llama, tmp_path):
    checkpointer = hf(base_dir, tmp_path / "out", safe_serialization=False)
    checkpointer.save_checkpoint({MODEL_KEY: llama(3).state_dict()}, epoch=0)
    folder = tmp_path / "out" / "epoch_0"
    loaded = FullModelHFCheckpointer(str(folder), ["model-00001-of-00001.bin"], "LLAMA3").load_checkpoint()
    assert_same(loaded[MODEL_KEY], llama(3).state_dict())


def test_folder_holds_the_tokenizer_and_no_old_weights(base_dir, llama, tmp_path):
    hf(base_dir, tmp_path / "out").save_checkpoint({MODEL_KEY: llama().state_dict()}, epoch=0)
    folder = tmp_path / "out" / "epoch_0"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json", "original/tokenizer.model"} <= names
    assert "model.safetensors" not in names
    assert not any(name.startswith(".cache") for name in names)


def test_chat_template_of_a_checkpoint_writes_the_tools_of_a_convention(base_dir, llama, tmp_path):
    checkpointer = hf(base_dir, tmp_path / "out")
    checkpointer.chat_format = get_format("llama3", tool_convention="hermes")
    checkpointer.save_checkpoint({MODEL_KEY: llama().state_dict()}, epoch=0)
    written = (tmp_path / "out" / "epoch_0" / "chat_template.jinja").read_text()
    assert "<tool_call>" in written and written.endswith((base_dir / "chat_template.jinja").read_text())


def test_config_follows_a_resized_vocabulary_and_a_new_dtype(base_dir, llama, tmp_path):
    state = {key: value.bfloat16() for key, value in llama().state_dict().items()}
    for key in ("tok_embeddings.weight", "output.weight"):
        state[key] = torch.cat([state[key], state[key][:8]])
    hf(base_dir, tmp_path / "out").save_checkpoint({MODEL_KEY: state}, epoch=0)
    written = json.loads((tmp_path / "out" / "epoch_0" / "config.json").read_text())
    before = json.loads((base_dir / "config.json").read_text())
    assert {key for key in before if before[key] != written[key]} == {"vocab_size", "torch_dtype"}
    assert (written["vocab_size"], written["torch_dtype"]) == (72, "bfloat16")


def test_resume_takes_the_newest_checkpoint_and_its_run_state(base_dir, llama, tmp_path):
    out = tmp_path / "out"
    checkpointer = hf(base_dir, out)
    for step in (5, 10):
        state = {MODEL_KEY: llama(step).state_dict(), **run_state(step)}
        checkpointer.save_checkpoint(state, epoch=0, intermediate_checkpoint=True, step=step)
    loaded = hf(base_dir, out, should_load_recipe_state=True).load_checkpoint()
    assert loaded["steps_run"] == 10
    assert loaded[OPT_KEY]["state"][0]["step"] == 10
    assert_same(loaded[MODEL_KEY], llama(10).state_dict())


def test_adapter_resume_keeps_the_base_and_loads_the_adapter(base_dir, llama, lora_llama, lora_config, tmp_path):
    out = tmp_path / "out"
    adapter = {key: value for key, value in lora_llama(7).state_dict().items() if "lora" in key}
    state = {MODEL_KEY: llama(9).state_dict(), ADAPTER_KEY: adapter, ADAPTER_CONFIG: lora_config, **run_state()}
    hf(base_dir, out).save_checkpoint(state, epoch=0, intermediate_checkpoint=True)
    for name in ("adapter_model.pt", "epoch_0/adapter/adapter_model.safetensors"):
        loaded = hf(base_dir, out, resume_from_checkpoint=True, adapter_checkpoint=name).load_checkpoint()
        assert_same(loaded[ADAPTER_KEY], adapter)
        assert_same(loaded[MODEL_KEY], llama().state_dict())


def test_adapter_folder_has_pefts_names_and_the_base_model(base_dir, lora_llama, lora_config, tmp_path):
    adapter = {key: value for key, value in lora_llama().state_dict().items() if "lora" in key}
    state = {ADAPTER_KEY: adapter, ADAPTER_CONFIG: lora_config}
    (base_dir / "original_repo_id.json").write_text('{"repo_id": "someone/tiny"}')
    hf(base_dir, tmp_path / "out").save_checkpoint(state, epoch=2, adapter_only=True)
    folder = tmp_path / "out" / "epoch_2"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/tiny"
    assert set(config["target_modules"]) >= {"q_proj", "o_proj", "gate_proj"}
    assert all(
        name.startswith("base_model.model.model.layers.")
        for name in read_safetensors(folder / "adapter_model.safetensors")
    )
    assert not list(folder.glob("model-*"))
    assert not (folder / "config.json").exists()  # transformers would look for the base model's weights beside it


def test_adapter_only_without_an_adapter_is_refused(base_dir, llama, tmp_path):
    with pytest.raises(ValueError, match="Adapter checkpoint not found in state_dict"):
        hf(base_dir, tmp_path / "out").save_checkpoint({MODEL_KEY: llama().state_dict()}, epoch=0, adapter_only=True)
    assert not list((tmp_path / "out").iterdir())


def test_adapters_are_merged_layer_by_layer_as_they_are_written(
    base_dir, lora_llama, lora_config, tmp_path, monkeypatch
):
    from torchtune.modules import peft
    from torchtune.modules.peft import _utils

    weights = lora_llama().state_dict()
    weights |= {"output.lora_a.weight": torch.randn(4, 32), "output.lora_b.weight": torch.randn(64, 4)}
    expected = peft.get_merged_lora_ckpt(dict(weights), lora_config["r"], lora_config["lora_alpha"])
    alive: list[weakref.ref] = []
    most = 0
    merge = _utils._merged_linear

    def counted(*args):
        nonlocal most
        merged = merge(*args)
        if merged.device.type != "meta":
            alive.append(weakref.ref(merged))
            most = max(most, sum(ref() is not None for ref in alive))
        return merged

    monkeypatch.setattr(_utils, "_merged_linear", counted)
    state = {MODEL_KEY: weights, ADAPTER_KEY: peft.get_adapter_state_dict(weights), ADAPTER_CONFIG: lora_config}
    hf(base_dir, tmp_path / "out").save_checkpoint(state, epoch=0)
    assert (
        len(alive) == 15 and most <= 14
    )  # two layers of seven, and the output: never more than the next beside the last
    folder = tmp_path / "out" / "epoch_0"
    loaded = FullModelHFCheckpointer(str(folder), [], "LLAMA3").load_checkpoint()[MODEL_KEY]
    assert_same(dict(sorted(loaded.items())), dict(sorted(expected.items())))


def test_full_disk_leaves_earlier_checkpoints_and_no_half_one(base_dir, llama, tmp_path, monkeypatch):
    out = tmp_path / "out"
    checkpointer = hf(base_dir, out)
    state = {MODEL_KEY: llama().state_dict(), **run_state()}
    checkpointer.save_checkpoint(state, epoch=0, intermediate_checkpoint=True)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torchtune.training.checkpointing._files.copy_files", full)
    with pytest.raises(OSError, match="epoch_1 could not be written .No space left on device.*resume_from_checkpoint"):
        checkpointer.save_checkpoint(state, epoch=1, intermediate_checkpoint=True)
    assert [path.name for path in out.iterdir()] == ["epoch_0"]


def test_process_that_dies_in_a_save_leaves_the_checkpoint_before(base_dir, llama, tmp_path):
    out = tmp_path / "out"
    hf(base_dir, out).save_checkpoint(
        {MODEL_KEY: llama(1).state_dict(), **run_state()}, 0, intermediate_checkpoint=True
    )
    script = f"""
import os, torch
from torchtune.training import FullModelHFCheckpointer
from torchtune.training.checkpointing import _folders
checkpointer = FullModelHFCheckpointer({str(base_dir)!r}, ["model.safetensors"], "LLAMA3", {str(out)!r})
_folders._write_json = lambda *a: os.kill(os.getpid(), 9)
checkpointer.save_checkpoint(checkpointer.load_checkpoint(), 1, intermediate_checkpoint=True)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert (out / ".epoch_1.tmp").exists()
    assert_same(hf(base_dir, out, resume_from_checkpoint=True).load_checkpoint()[MODEL_KEY], llama(1).state_dict())
    assert not (out / ".epoch_1.tmp").exists()


def test_replacement_cut_off_between_its_renames_is_undone(base_dir, llama, tmp_path):
    out = tmp_path / "out"
    hf(base_dir, out).save_checkpoint(
        {MODEL_KEY: llama(1).state_dict(), **run_state()}, 0, intermediate_checkpoint=True
    )
    (out / "epoch_0").rename(out / ".epoch_0.old")
    assert_same(hf(base_dir, out, resume_from_checkpoint=True).load_checkpoint()[MODEL_KEY], llama(1).state_dict())


def test_saving_again_under_the_same_name_replaces_it(base_dir, llama, tmp_path):
    checkpointer = hf(base_dir, tmp_path / "out")
    for seed in (1, 2):
        checkpointer.save_checkpoint(
            {MODEL_KEY: llama(seed).state_dict(), **run_state()}, 0, intermediate_checkpoint=True
        )
    loaded = hf(base_dir, tmp_path / "out", resume_from_checkpoint=True).load_checkpoint()
    assert_same(loaded[MODEL_KEY], llama(2).state_dict())


def test_damaged_checkpoint_is_refused_by_name_and_the_one_before_offered(base_dir, llama, tmp_path):
    out = tmp_path / "out"
    checkpointer = hf(base_dir, out)
    for epoch in (0, 1):
        state = {MODEL_KEY: llama(epoch).state_dict(), **run_state()}
        checkpointer.save_checkpoint(state, epoch, intermediate_checkpoint=True)
    shard = out / "epoch_1" / "model-00001-of-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"epoch_1 is damaged: model-00001.*has changed.*resume from .*epoch_0"):
        hf(base_dir, out, resume_from_checkpoint=True)
    shard.unlink()
    with pytest.raises(ValueError, match="is missing"):
        hf(base_dir, out, resume_from_checkpoint=True)


def test_hashes_in_the_manifest_are_those_of_the_files(base_dir, llama, tmp_path):
    hf(base_dir, tmp_path / "out").save_checkpoint({MODEL_KEY: llama().state_dict()}, epoch=0, max_shard_size="50KB")
    folder = tmp_path / "out" / "epoch_0"
    files = json.loads((folder / _folders.MANIFEST_FNAME).read_text())["files"]
    assert {name: entry["sha256"] for name, entry in files.items()} == {
        name: _folders.sha256(folder / name) for name in files
    }


def test_optimizer_states_stay_with_the_two_newest_checkpoints_only(base_dir, llama, tmp_path):
    out = tmp_path / "out"
    checkpointer = hf(base_dir, out)
    for epoch in range(4):
        state = {MODEL_KEY: llama(epoch).state_dict(), **run_state()}
        checkpointer.save_checkpoint(state, epoch, intermediate_checkpoint=True)
    assert sorted(path.parent.name for path in out.glob("*/recipe_state.pt")) == ["epoch_2", "epoch_3"]
    assert _folders.check_folder(out / "epoch_0") == []


def test_keep_last_n_counts_epochs_and_steps_apart(base_dir, llama, tmp_path):
    out = tmp_path / "out"
    checkpointer = hf(base_dir, out, keep_last_n_checkpoints=2)
    state = {MODEL_KEY: llama().state_dict()}
    checkpointer.save_checkpoint(state, epoch=0)
    for step in (2, 4, 6):
        checkpointer.save_checkpoint(state, epoch=1, step=step)
    assert sorted(path.name for path in out.iterdir()) == ["epoch_0", "step_4", "step_6"]


def test_resume_of_the_layout_without_manifests(base_dir, llama, tmp_path):
    out = tmp_path / "out"
    for epoch in (0, 1):
        hf(base_dir, tmp_path / "new").save_checkpoint({MODEL_KEY: llama(epoch).state_dict()}, epoch)
        (tmp_path / "new" / f"epoch_{epoch}" / _folders.MANIFEST_FNAME).unlink()
    (tmp_path / "new").rename(out)
    (out / "recipe_state").mkdir()
    torch.save(run_state(8), out / "recipe_state" / "recipe_state.pt")
    for name in ("recipe_state.pt", "recipe_state/recipe_state.pt"):
        loaded = hf(base_dir, out, resume_from_checkpoint=True, recipe_checkpoint=name).load_checkpoint()
        assert loaded["steps_run"] == 8
        assert_same(loaded[MODEL_KEY], llama(1).state_dict())


def test_auto_resumes_where_there_is_something_to_resume_from(base_dir, llama, tmp_path):
    def decided(value, **settings) -> bool:
        cfg = {"output_dir": str(tmp_path / "out"), "checkpointer": {"output_dir": "${output_dir}", **settings}}
        return with_resume_decided(OmegaConf.create({**cfg, "resume_from_checkpoint": value})).resume_from_checkpoint

    assert not decided("auto")
    state = {MODEL_KEY: llama().state_dict()}
    hf(base_dir, tmp_path / "out").save_checkpoint(state, epoch=0)  # holds no state of a run
    assert not decided("auto") and not decided("auto", recipe_checkpoint="epoch_0/recipe_state.pt")
    hf(base_dir, tmp_path / "out").save_checkpoint({**state, **run_state()}, epoch=1, intermediate_checkpoint=True)
    assert decided("auto") and decided("auto", recipe_checkpoint="epoch_1/recipe_state.pt")
    assert not decided(False) and decided(True)
    (tmp_path / "out" / "epoch_1").rename(tmp_path / "out" / ".epoch_1.old")  # its replacement was cut off
    assert decided("auto")
    (tmp_path / "out" / "epoch_1" / "recipe_state.pt").unlink()  # damaged: the resume will say so
    assert decided("auto")
    with pytest.raises(ValueError, match="'yes'; expected true, false or auto"):
        decided("yes")


def test_resume_without_a_checkpoint_says_what_to_do(base_dir, tmp_path):
    with pytest.raises(ValueError, match="No checkpoint to resume from.*resume_from_checkpoint=False"):
        hf(base_dir, tmp_path / "out", resume_from_checkpoint=True)


def test_no_code_in_a_checkpoint_runs(base_dir, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"a": Evil()}, base_dir / "evil.bin")
    (base_dir / "bare.bin").write_bytes(pickle.dumps({"a": Evil()}))
    for name in ("evil.bin", "bare.bin"):
        with pytest.raises(ValueError, match=f"Unable to load checkpoint from .*{name}"):
            FullModelHFCheckpointer(str(base_dir), [name], "LLAMA3").load_checkpoint()
    assert not (tmp_path / "ran").exists()


def test_truncated_shard_is_named(base_dir):
    path = base_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="Unable to load checkpoint from .*model.safetensors"):
        hf(base_dir).load_checkpoint()


def test_missing_file_is_named_with_what_is_there(base_dir):
    with pytest.raises(ValueError, match=r"No file with name: model-2.safetensors found in .*model.safetensors"):
        FullModelHFCheckpointer(str(base_dir), ["model-2.safetensors"], "LLAMA3")


def test_unknown_model_type_lists_those_known(base_dir):
    with pytest.raises(ValueError, match="'LLAMA9'; expected one of GEMMA, .*QWEN3"):
        FullModelHFCheckpointer(str(base_dir), ["model.safetensors"], "LLAMA9")


def test_a_layout_of_another_family_is_told_with_the_one_of_the_config(base_dir):
    checkpointer = FullModelHFCheckpointer(str(base_dir), ["model.safetensors"], "PHI3_MINI")
    with pytest.raises(
        KeyError, match="Phi-3 layout. checkpointer.model_type is PHI3_MINI, and config.json's 'llama'; AUTO"
    ):
        checkpointer.load_checkpoint()


@pytest.mark.parametrize("where", ["", "sub"])
def test_output_in_the_source_folder_is_refused(base_dir, where):
    with pytest.raises(ValueError, match="output directory cannot be the same as or a subdirectory"):
        check_outdir_not_in_ckptdir(base_dir, base_dir / where)


def test_output_beside_the_source_with_a_longer_name_is_fine(base_dir):
    assert check_outdir_not_in_ckptdir(base_dir, f"{base_dir}_out")


def test_tied_output_is_not_loaded_twice(base_dir):
    config = json.loads((base_dir / "config.json").read_text())
    (base_dir / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert "output.weight" not in hf(base_dir).load_checkpoint()[MODEL_KEY]


def test_meta_layout_of_tied_llama_holds_the_matrix_twice_on_disk_only(base_dir, llama, tmp_path):
    state = llama().state_dict()
    state.pop("output.weight")
    torch.save({}, base_dir / "consolidated.00.pth")
    out = tmp_path / "out"
    args = (["consolidated.00.pth"], "LLAMA3_2", str(out))
    FullModelMetaCheckpointer(str(base_dir), *args).save_checkpoint({MODEL_KEY: state, **run_state()}, 0, True)
    on_disk = safe_torch_load(out / "epoch_0" / "model-00001-of-00001.bin")
    assert torch.equal(on_disk["output.weight"], on_disk["tok_embeddings.weight"])
    loaded = FullModelMetaCheckpointer(str(base_dir), *args, resume_from_checkpoint=True).load_checkpoint()
    assert_same(loaded[MODEL_KEY], state)


def test_own_layout_round_trip(base_dir, llama, tmp_path):
    torch.save(llama().state_dict(), base_dir / "model.pt")
    args = (str(base_dir), ["model.pt"], "LLAMA3", str(tmp_path / "out"))
    loaded = FullModelTorchTuneCheckpointer(*args).load_checkpoint()
    FullModelTorchTuneCheckpointer(*args).save_checkpoint({**loaded, **run_state()}, 0, intermediate_checkpoint=True)
    again = FullModelTorchTuneCheckpointer(*args, should_load_recipe_state=True).load_checkpoint()
    assert_same(again[MODEL_KEY], llama().state_dict())
    with pytest.raises(ValueError, match="single checkpoint file, found 2"):
        FullModelTorchTuneCheckpointer(str(base_dir), ["a", "b"], "LLAMA3", str(tmp_path / "out"))


def test_safetensors_writer_agrees_with_the_library(tmp_path):
    from safetensors.torch import load_file

    dtypes = (torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.int64, torch.float8_e4m3fn)
    tensors = {f"t{i}": torch.arange(8).reshape(2, 4).to(dtype) for i, dtype in enumerate(dtypes)}
    tensors |= {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
    }
    digest = write_safetensors(tmp_path / "x.safetensors", tensors, tensors.items())
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].float(), tensor.float())
    assert digest == _folders.sha256(tmp_path / "x.safetensors")


def test_safetensors_writer_refuses_other_tensors_than_announced(tmp_path):
    with pytest.raises(ValueError, match="expected a"):
        write_safetensors(tmp_path / "x", {"a": torch.zeros(2)}, [("b", torch.zeros(2))])
    with pytest.raises(ValueError, match="a was announced"):
        write_safetensors(tmp_path / "x", {"a": torch.zeros(2)}, [])


def test_loading_maps_the_file_and_never_writes_to_it(base_dir):
    before = (base_dir / "model.safetensors").read_bytes()
    loaded = hf(base_dir).load_checkpoint()[MODEL_KEY]
    for tensor in loaded.values():
        tensor.add_(1)
    assert (base_dir / "model.safetensors").read_bytes() == before


def test_file_names_from_a_format():
    files = FormattedCheckpointFiles.from_dict({"filename_format": "m-{}-of-{}.st", "max_filename": "00003"})
    assert files.build_checkpoint_filenames() == [f"m-0000{i}-of-00003.st" for i in (1, 2, 3)]
    with pytest.raises(ValueError, match="Must pass 'filename_format'"):
        FormattedCheckpointFiles.from_dict({"max_filename": "00003"})
    with pytest.raises(ValueError, match="`max_filename` must be a string"):
        FormattedCheckpointFiles("m-{}-of-{}", 3)
    with pytest.raises(ValueError, match="must have exactly two placeholders"):
        FormattedCheckpointFiles("m-{}", "3")


def test_largest_folder_is_by_number_not_by_text(tmp_path):
    for name in ("epoch_9", "epoch_10", "step_50", "epoch_x", "my_epoch_99"):
        (tmp_path / name).mkdir()
    (tmp_path / "epoch_11").write_text("a file")
    assert get_largest_iter_folder(tmp_path) == "epoch_10"
    assert get_largest_iter_folder(tmp_path, pattern=r"^step_(\d+)") == "step_50"
    assert get_largest_iter_folder(tmp_path / "absent") is None


def test_pruning_keeps_the_last(tmp_path):
    folders = [tmp_path / f"epoch_{i}" for i in range(3)]
    for folder in folders:
        folder.mkdir()
    prune_surplus_checkpoints(folders, 2)
    assert [folder.exists() for folder in folders] == [False, True, True]
    with pytest.raises(ValueError, match="keep_last_n_checkpoints must be greater than or equal to 1"):
        prune_surplus_checkpoints(folders, 0)


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("10B", 10), (7, 7)])
def test_shard_sizes(text, size):
    assert parse_size(text) == size


def test_shard_size_without_a_unit_is_refused():
    with pytest.raises(ValueError, match="max_shard_size is '5'"):
        parse_size("5")


def test_classifier_keeps_its_own_output_where_shapes_differ():
    model = torch.nn.ModuleDict({"output": torch.nn.Linear(4, 2, bias=False)})
    state = {"output.weight": torch.zeros(9, 4), "output.bias": torch.zeros(9)}
    with pytest.warns(UserWarning, match="output.bias"):
        update_state_dict_for_classifier(state, model.named_parameters())
    assert state.keys() == {"output.weight"}
    assert state["output.weight"] is model["output"].weight
    same = {"output.weight": torch.zeros(2, 4)}
    update_state_dict_for_classifier(same, model.named_parameters())
    assert torch.equal(same["output.weight"], torch.zeros(2, 4))
    with pytest.raises(AssertionError, match="Expected output.weight in state_dict"):
        update_state_dict_for_classifier({}, model.named_parameters())
    with pytest.raises(AssertionError, match="Expected output.weight in model_named_parameters"):
        update_state_dict_for_classifier(same, [])


def test_tensors_of_torchao_are_read_in_a_process_that_has_not_imported_it(tmp_path):
    """As ``generate`` reads what ``quantize`` saved, and a resumed run its 8-bit states."""
    from torchao.optim.subclass_8bit import OptimState8bit

    from torchtune.training.quantization import Int8DynActInt4WeightQuantizer

    model = Int8DynActInt4WeightQuantizer(groupsize=32).quantize(torch.nn.Linear(64, 8, bias=False))
    torch.save({"weight": model.weight, "state": OptimState8bit.zeros((256,))}, tmp_path / "model.pt")
    code = (
        "import sys; from torchtune.training.checkpointing._utils import safe_torch_load; "
        "assert 'torchao' not in sys.modules; "
        f"state = safe_torch_load({str(tmp_path / 'model.pt')!r}); "
        "assert state['weight'].shape == (8, 64) and state['state'].shape == (256,)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
