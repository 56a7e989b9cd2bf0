"""Checkpoint folders that are either complete or absent, and the search for the newest of them.

A folder is written under a hidden name, flushed to disk, given a manifest of its files' sizes and hashes, and renamed.
A process killed at any moment leaves the checkpoints of before as they were.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchtune.training.checkpointing._utils import (
    EPOCH_PATTERN,
    RECIPE_STATE_DIRNAME,
    RECIPE_STATE_FNAME,
    STEP_PATTERN,
    get_largest_iter_folder,
    prune_surplus_checkpoints,
    read_json,
)
from torchtune.utils._paths import inside

#: What a complete checkpoint folder holds besides its files: their sizes and hashes.
MANIFEST_FNAME = "torchtune_checkpoint.json"
#: What PyTorch's distributed checkpoint writes last.
DCP_METADATA = ".metadata"
#: What to do when a save failed.
ADVICE = "earlier checkpoints are untouched. Free space or choose another output_dir, and resume with resume_from_checkpoint=True"
_TMP, _OLD = ".tmp", ".old"
_PIECE, _UNFLUSHED = 1 << 20, 1 << 26  # bytes that are written at once, and after which the disk is told
_log = logging.getLogger("torchtune")


@dataclass
class Draft:
    """A checkpoint folder that is being written, what its manifest says besides, and hashes that are known."""

    path: Path
    info: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    def save(self, name: str, value: Any) -> None:
        """Write a torch file into the folder."""
        self.hashes[name] = torch_save(value, self.path / name)


def checkpoint_name(epoch: int, step: int | None = None, dir_prefix: str = "epoch") -> str:
    """The folder's name: ``epoch_N``, or ``step_N`` for a checkpoint by step; another prefix stays as it is."""
    if step is not None and dir_prefix == "epoch":
        return f"step_{step}"
    return f"{dir_prefix}_{epoch if step is None else step}"


@contextmanager
def new_checkpoint(final: Path, **info: Any) -> Iterator[Draft]:
    """Write a checkpoint folder that appears under its name only when it is complete."""
    temporary = final.with_name(f".{final.name}{_TMP}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        draft = Draft(temporary, dict(info))
        yield draft
        commit(draft, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        text = f"the checkpoint {final} could not be written ({error.strerror or error}); {ADVICE}"
        raise OSError(error.errno, text) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def commit(draft: Draft, final: Path) -> None:
    """Flush a draft to disk, write its manifest and give it its name."""
    files = {}
    for path in sorted(draft.path.rglob("*")):
        if path.is_file():
            name = path.relative_to(draft.path).as_posix()
            _sync(path)
            files[name] = {"size": path.stat().st_size, "sha256": draft.hashes.get(name) or sha256(path)}
    # Later than those before it even if the clock was set back, or is that of another machine: the newest is found by it.
    last = max((written for written, _ in _by_time(final.parent)), default=0)
    manifest = {"format": 1, **draft.info, "time_ns": max(time.time_ns(), last + 1), "files": files}
    _write_json(draft.path / MANIFEST_FNAME, manifest)
    _sync(draft.path)
    old = final.with_name(f".{final.name}{_OLD}")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    draft.path.rename(final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


class HashedFile:
    """A file that is hashed, and flushed to the disk, while it is written.

    Another thread hashes what this one writes; a third has the disk begin early, so that the flush at the end is short.
    Nothing is copied; the last data that was given is kept until it is hashed.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._threads = ThreadPoolExecutor(2, "checkpoint")
        self._hashing = self._flushing = self._threads.submit(lambda: None)
        self._unflushed = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write bytes; gives their number."""
        view = memoryview(data)
        if len(view) > _PIECE or not self._hashing.done():
            self._hashing.result()
            self._hashing = self._threads.submit(self._digest.update, view)
        else:  # quicker than another thread would begin
            self._digest.update(view)
        try:
            for start in range(0, len(view), _PIECE):
                self._unflushed += self._file.write(view[start : start + _PIECE])
                if self._unflushed > _UNFLUSHED and self._flushing.done():
                    self._flushing.result()  # the system tells an error of the disk only once
                    self._flushing, self._unflushed = self._threads.submit(os.fsync, self._file.fileno()), 0
        finally:
            if view.obj is None:  # memory that torch lends for the time of the call
                self._hashing.result()
        return len(view)

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        with self._file, self._threads:
            if kind is None:
                self.flush()
                self._flushing.result()
                os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written, in hexadecimal."""
        return self._digest.hexdigest()


def torch_save(value: Any, path: Path) -> str:
    """``torch.save`` that gives the SHA-256, and the disk's error where that runs full."""
    import torch

    with HashedFile(path) as file:
        try:
            torch.save(value, file)  # type: ignore[arg-type]  # it asks only for write and flush
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
    return file.sha256


def check_writable(folder: Path) -> None:
    """Make a folder, and hold that files can be written there: better now than at the first checkpoint."""
    probe = folder / f".torchtune_writable_{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(
            error.errno,
            f"output_dir {folder} can't be written ({error.strerror or error}): checkpoints have to go there. Set output_dir "
            "(or checkpointer.output_dir) to a folder that is yours",
        ) from error


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _write_json(path: Path, value: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def recover(output_dir: Path) -> None:
    """Bring back a folder whose replacement was cut off between its two renames, and drop unfinished drafts."""
    if not output_dir.is_dir():
        return
    for entry in output_dir.iterdir():
        if not entry.name.startswith(".") or not entry.is_dir():
            continue
        if entry.name.endswith(_OLD) and (entry / MANIFEST_FNAME).is_file():
            final = entry.with_name(entry.name[1 : -len(_OLD)])
            if final.exists():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with suppress(FileNotFoundError):  # another rank was quicker
                    entry.rename(final)
        elif entry.name.endswith(_TMP):
            shutil.rmtree(entry, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder; an error if it is damaged, or names files elsewhere."""
    path = folder / MANIFEST_FNAME
    manifest = read_json(path)
    files = manifest.get("files")
    entries = files.values() if isinstance(files, dict) else [None]
    whole = all(isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in entries)
    if not whole or not isinstance(manifest.get("time_ns", 0), int):
        raise ValueError(f"{path} is no manifest: expected `time_ns`, and `files` with size and sha256 of each")
    for name in files or ():
        inside(folder, name, str(path))
    return manifest


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoint folders in ``output_dir``, oldest first; one whose manifest is damaged is among them."""
    return [entry for _, entry in _by_time(output_dir)]


def _by_time(output_dir: Path) -> list[tuple[int, Path]]:
    """When each complete checkpoint folder was written."""
    found = []
    for entry in output_dir.iterdir() if output_dir.is_dir() else ():
        path = entry / MANIFEST_FNAME
        if not entry.name.startswith(".") and path.is_file():
            written: Any = path.stat().st_mtime_ns
            with suppress(ValueError):
                written = read_manifest(entry).get("time_ns", 0)
            found.append((written, entry))
    return sorted(found)


def check_folder(folder: Path, hashes: bool = True) -> list[str]:
    """What is wrong with a checkpoint folder, in words; without ``hashes`` only names and sizes are compared."""
    try:
        files = read_manifest(folder)["files"]
    except ValueError as error:
        return [str(error)]
    problems = []
    for name, want in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != want["size"]:
            problems.append(f"{name} has {path.stat().st_size} bytes, expected {want['size']}")
        elif hashes and sha256(path) != want["sha256"]:
            problems.append(f"{name} has changed since it was written (its SHA-256 differs)")
    return problems


def drop_old_recipe_states(output_dir: Path, keep: int = 2) -> None:
    """Delete the recipe states of all but the newest few checkpoints: optimizer states are large, and only these serve a resume."""
    with_state = [folder for folder in complete_checkpoints(output_dir) if (folder / RECIPE_STATE_FNAME).is_file()]
    for folder in with_state[:-keep]:
        try:
            manifest = read_manifest(folder)
        except ValueError as error:  # a resume will tell of it; this save is not concerned
            _log.warning("%s. The checkpoint is left as it is.", error)
            continue
        manifest["files"].pop(RECIPE_STATE_FNAME, None)
        replacement = folder / f".{MANIFEST_FNAME}"
        _write_json(replacement, manifest)
        replacement.replace(folder / MANIFEST_FNAME)
        (folder / RECIPE_STATE_FNAME).unlink()


def prune(output_dir: Path, keep_last_n: int, kind: str) -> None:
    """Keep the last few checkpoint folders of one kind (``epoch``, ``step`` or another prefix)."""
    folders = [folder for folder in complete_checkpoints(output_dir) if folder.name.rpartition("_")[0] == kind]
    prune_surplus_checkpoints(folders, keep_last_n)


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on from: a checkpoint folder, and its file with optimizer, position and counters."""

    folder: Path
    recipe_state: Path


def resumable(output_dir: Path, *names: str) -> list[Path]:
    """The checkpoint folders that hold, or should hold, the state of a run, in a file of one of these names; oldest first."""
    found = []
    for folder in complete_checkpoints(output_dir):
        there = {path.name for path in folder.iterdir()}
        with suppress(ValueError):
            there |= read_manifest(folder)["files"].keys()
        if there.intersection(names):
            found.append(folder)
    return found


def can_resume(output_dir: Path, recipe_checkpoint: str | None = None) -> bool:
    """Whether a run left anything to resume from, be it damaged; arguments as in :func:`find_resume_point`."""
    recover(output_dir)
    name = recipe_checkpoint or RECIPE_STATE_FNAME
    if "/" in name:
        return inside(output_dir, name, "checkpointer.recipe_checkpoint").is_file()
    return (output_dir / RECIPE_STATE_DIRNAME / name).is_file() or bool(resumable(output_dir, name, DCP_METADATA))


def refuse_damaged(folders: list[Path], check: bool = True) -> Path:
    """The newest of some folders, oldest first; an error if it is damaged, with the newest that is whole."""
    newest = folders[-1]
    if problems := check_folder(newest, hashes=check):
        before = next((str(f) for f in reversed(folders[:-1]) if not check_folder(f, hashes=check)), None)
        advice = f"Delete {newest} to resume from {before}"
        advice = advice if before else "No intact checkpoint is before it; start anew"
        raise ValueError(f"The newest checkpoint {newest} is damaged: {'; '.join(problems)}. {advice}.")
    return newest


def find_resume_point(output_dir: Path, recipe_checkpoint: str | None = None, check: bool = True) -> ResumePoint:
    """The newest checkpoint to resume from, by its recipe state's name or path under ``output_dir``."""
    recover(output_dir)
    name = recipe_checkpoint or RECIPE_STATE_FNAME
    if "/" in name:
        path = inside(output_dir, name, "checkpointer.recipe_checkpoint")
        if not path.is_file():
            raise ValueError(
                f"No recipe state {path} (checkpointer.recipe_checkpoint is {name!r}, relative to output_dir)."
            )
        # The checkpoint around it, or, where states are kept apart, the newest epoch's.
        apart = path.parent.name == RECIPE_STATE_DIRNAME
        return ResumePoint(_latest_by_name(output_dir) if apart else path.parent, path)
    usable = resumable(output_dir, name)
    if not usable:  # in the older layout folders without manifests are beside one with the recipe state
        path = output_dir / RECIPE_STATE_DIRNAME / name
        if not path.is_file():
            raise ValueError(
                f"No checkpoint to resume from: {output_dir} holds no complete checkpoint with a recipe state ({name}). "
                "Set resume_from_checkpoint=False to start anew, or output_dir to the folder of the run."
            )
        return ResumePoint(_latest_by_name(output_dir), path)
    if (last := complete_checkpoints(output_dir)[-1]) != usable[-1]:
        _log.warning("%s has no recipe state (a run's last checkpoint has none); resuming from %s.", last, usable[-1])
    newest = refuse_damaged(usable, check)
    return ResumePoint(newest, newest / name)


def _latest_by_name(output_dir: Path) -> Path:
    for pattern in (EPOCH_PATTERN, STEP_PATTERN):
        if name := get_largest_iter_folder(output_dir, pattern):
            return output_dir / name
    raise ValueError(f"{output_dir} has a recipe state, but no epoch_N or step_N folder with weights to go with it.")
