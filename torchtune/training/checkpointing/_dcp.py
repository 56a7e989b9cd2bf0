"""Saving by PyTorch's distributed checkpoint (DCP), with folders that are complete or absent."""

from __future__ import annotations

import io
import shutil
import threading
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

from torchtune.training.checkpointing._folders import (
    ADVICE,
    MANIFEST_FNAME,
    Draft,
    commit,
    complete_checkpoints,
    recover,
)
from torchtune.training.checkpointing._utils import read_json

_METADATA = ".metadata"


def latest_dcp_folder(folder: Path, adapter_only: bool = False) -> Path | None:
    """The newest complete DCP checkpoint in ``folder``, None if there is none."""
    recover(folder)
    for path in reversed(complete_checkpoints(folder)):
        manifest = read_json(path / MANIFEST_FNAME)
        if (path / _METADATA).is_file() and bool(manifest.get("adapter_only")) == adapter_only:
            return path
    return None


class _SafePlanner(DefaultLoadPlanner):
    """Loads plain values only: what isn't a tensor is pickled, and must hold no code."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


def load_dcp(state_dict: dict[str, Any], folder: Path, process_group: dist.ProcessGroup | None) -> dict[str, Any]:
    """Load a folder into the tensors of ``state_dict``, in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DCP warns wherever there is one process
        reader, planner = dcp.FileSystemReader(folder), _SafePlanner()
        dcp.load(state_dict, storage_reader=reader, planner=planner, process_group=process_group)
    return state_dict


class DCPWriter:
    """Writes drafts by DCP and commits them when all ranks are done, one at a time.

    Args:
        process_group: ranks that take part; None makes a gloo group of all.
    """

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        if process_group is None and dist.is_available() and dist.is_initialized():
            process_group = dist.new_group(backend="gloo")
        self.process_group = process_group
        self._pending: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state_dict: dict[str, Any], final: Path, save_async: bool, **info: Any) -> None:
        """Write ``state_dict`` to ``final``."""
        self.wait()
        draft = Draft(final.with_name(f".{final.name}.tmp"), dict(info))
        if self._rank == 0:
            shutil.rmtree(draft.path, ignore_errors=True)
            draft.path.mkdir(parents=True)
        self._barrier()
        writer = dcp.FileSystemWriter(draft.path, overwrite=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not save_async:
                try:
                    dcp.save(state_dict, storage_writer=writer, process_group=self.process_group)
                except Exception as error:
                    shutil.rmtree(draft.path, ignore_errors=True)
                    raise OSError(f"the checkpoint {final} could not be written ({error}); {ADVICE}") from error
                self._finish(draft, final)
                return
            future: Any = dcp.async_save(state_dict, storage_writer=writer, process_group=self.process_group)
        # Rank 0's write ends only when all ranks' have. The thread commits at once, so that a later crash loses nothing.
        self._pending = threading.Thread(target=self._complete, args=(future, draft, final), daemon=False)
        self._pending.start()

    def _complete(self, future: Future, draft: Draft, final: Path) -> None:
        try:
            future.result()
            if self._rank == 0:
                commit(draft, final)
        except BaseException as error:  # raised in the training thread, by wait()
            shutil.rmtree(draft.path, ignore_errors=True)
            self._error = error

    def wait(self) -> None:
        """Wait for the save in the background.

        Raises:
            OSError: if it failed.
        """
        if self._pending is None:
            return
        self._pending.join()
        self._pending = None
        if self._error is not None:
            error, self._error = self._error, None
            raise OSError(f"the checkpoint in the background could not be written ({error}); {ADVICE}") from error
        self._barrier()

    def _finish(self, draft: Draft, final: Path) -> None:
        if self._rank == 0:
            commit(draft, final)
        self._barrier()

    @property
    def _rank(self) -> int:
        return dist.get_rank(self.process_group) if dist.is_initialized() else 0

    def _barrier(self) -> None:
        if dist.is_initialized():
            dist.barrier(group=self.process_group)
