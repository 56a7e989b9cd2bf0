"""Checkpoints that each rank writes its part of (DCP): complete or absent, checked at resume, and no code in them runs."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torchtune.training import DistributedCheckpointer
from torchtune.training.checkpointing import _folders


def state(value: float = 0.0) -> dict[str, Any]:
    return {"model": {"w": torch.full((4, 3), value), "h": torch.full((2,), value, dtype=torch.bfloat16)}, "run": b"x"}


def saved(out: Path, *steps: int, save_async: bool = False, **options: Any) -> DistributedCheckpointer:
    checkpointer = DistributedCheckpointer(str(out / "none"), str(out), **options)
    for step in steps:
        checkpointer.save_checkpoint(state(step), 0, save_async=save_async, step=step)
    checkpointer.wait()
    return checkpointer


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("save_async", [False, True])
def test_the_newest_is_loaded_and_its_manifest_has_all_files(tmp_path, save_async):
    loaded = saved(tmp_path, 3, 6, save_async=save_async).load_checkpoint(state())
    assert torch.equal(loaded["model"]["w"], torch.full((4, 3), 6.0))
    assert loaded["run"] == b"x"
    files = json.loads((tmp_path / "step_6" / _folders.MANIFEST_FNAME).read_text())["files"]
    there = {path.name for path in (tmp_path / "step_6").iterdir()} - {_folders.MANIFEST_FNAME}
    assert files.keys() == there
    assert _folders.check_folder(tmp_path / "step_6") == []


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", _folders.MANIFEST_FNAME])
def test_a_damaged_one_is_refused_by_name_and_the_one_before_offered(tmp_path, file):
    checkpointer = saved(tmp_path, 3, 6)
    if file == _folders.MANIFEST_FNAME:
        (tmp_path / "step_6" / file).write_text('{"files": {"__0_0.dis')
    else:
        damage(tmp_path / "step_6" / file)
    with pytest.raises(ValueError, match=r"step_6 is damaged: .*Delete .*step_6 to resume from .*step_3"):
        checkpointer.load_checkpoint(state())


def test_keep_last_n_deletes_older_ones_after_each_save(tmp_path):
    saved(tmp_path, 3, 6, 9, save_async=True, keep_last_n_checkpoints=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_6", "step_9"]


# The background writer dies with its process: in the middle of a file, before the manifest, or before the rename.
@pytest.mark.parametrize(
    "moment",
    [
        "dcp.FileSystemWriter.write_data = die",
        "dcp.FileSystemWriter.finish = die",
        "_folders._write_json = die",
        "_folders.Path.rename = die",
    ],
)
def test_a_process_killed_in_the_middle_of_a_background_save_leaves_the_one_before(tmp_path, moment):
    script = f"""
import os, torch, torch.distributed.checkpoint as dcp
from torchtune.training import DistributedCheckpointer
from torchtune.training.checkpointing import _folders
checkpointer = DistributedCheckpointer("none", {str(tmp_path)!r})
save = lambda step: checkpointer.save_checkpoint({{"model": {{"w": torch.full((4, 3), float(step))}}, "run": b"x"}}, 0, save_async=True, step=step)
save(3)
checkpointer.wait()
def die(*args, **kwargs): os.kill(os.getpid(), 9)
{moment}
save(6)
checkpointer.wait()
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=100).returncode == -9
    assert (tmp_path / ".step_6.tmp").is_dir()
    assert not (tmp_path / "step_6").exists()
    part = {"model": {"w": torch.zeros(4, 3)}, "run": b""}
    loaded = DistributedCheckpointer("none", str(tmp_path)).load_checkpoint(part)
    assert torch.equal(loaded["model"]["w"], torch.full((4, 3), 3.0))
    assert not (tmp_path / ".step_6.tmp").exists()


def test_a_background_save_that_fails_is_told_at_the_next(tmp_path, monkeypatch):
    checkpointer = saved(tmp_path, 3)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchtune.training.checkpointing._dcp.commit", full)
    checkpointer.save_checkpoint(state(6), 0, save_async=True, step=6)
    with pytest.raises(OSError, match="in the background could not be written .*No space left.*earlier checkpoints"):
        checkpointer.save_checkpoint(state(9), 0, save_async=True, step=9)
    assert [path.name for path in tmp_path.iterdir()] == ["step_3"]


class Evil:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.made),))


def trust(folder: Path) -> None:
    """The folder as one whose manifest fits: who can put a checkpoint there can write that, too."""
    manifest = json.loads((folder / _folders.MANIFEST_FNAME).read_text())
    for name in manifest["files"]:
        manifest["files"][name] = {
            "size": (folder / name).stat().st_size,
            "sha256": _folders.sha256(folder / name),
        }
    (folder / _folders.MANIFEST_FNAME).write_text(json.dumps(manifest))


def test_a_save_that_fails_in_the_foreground_is_told_and_leaves_no_half_one(tmp_path, monkeypatch):
    checkpointer = saved(tmp_path, 3)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.FileSystemWriter.write_data", full)
    with pytest.raises(OSError, match="step_6 could not be written .rank 0: .*No space left.*earlier checkpoints"):
        checkpointer.save_checkpoint(state(6), 0, step=6)
    assert [path.name for path in tmp_path.iterdir()] == ["step_3"]


def test_code_in_the_index_does_not_run(tmp_path):
    checkpointer = saved(tmp_path, 3)
    (tmp_path / "step_3" / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    trust(tmp_path / "step_3")
    with pytest.raises(ValueError, match="posix.mkdir, which is no part of a checkpoint's index"):
        checkpointer.load_checkpoint(state())
    assert not (tmp_path / "ran").exists()


def test_code_in_a_value_does_not_run(tmp_path):
    checkpointer = DistributedCheckpointer("none", str(tmp_path))
    checkpointer.save_checkpoint({"run": Evil(tmp_path / "ran")}, 0, step=3)
    with pytest.raises(ValueError, match="[Ww]eights.only"):
        checkpointer.load_checkpoint({"run": b""})
    assert not (tmp_path / "ran").exists()


def test_an_index_that_names_files_elsewhere_is_refused(tmp_path):
    checkpointer = saved(tmp_path, 3)
    path = tmp_path / "step_3" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    for info in metadata.storage_data.values():
        info.relative_path = "../../secret"
    path.write_bytes(pickle.dumps(metadata))
    trust(tmp_path / "step_3")
    with pytest.raises(ValueError, match="leads out of"):
        checkpointer.load_checkpoint(state())
