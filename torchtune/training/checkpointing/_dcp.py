"""Saving by PyTorch's distributed checkpoint (DCP), with folders that are complete or absent."""

from __future__ import annotations

import io
import pickle
import shutil
import threading
import warnings
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import StorageMeta

from torchtune.training._distributed import get_world_size_and_rank
from torchtune.training.checkpointing._folders import (
    ADVICE,
    DCP_METADATA,
    Draft,
    commit,
    prune,
    read_manifest,
    recover,
    refuse_damaged,
    resumable,
)
from torchtune.utils._paths import inside

# What the index of a distributed checkpoint is made of; it is a pickle, which could name anything.
_METADATA_CLASSES = {
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath"},
    "torch": {"Size", "device"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
}  # fmt: skip


def latest_dcp_folder(folder: Path, adapter_only: bool = False) -> Path | None:
    """The newest complete DCP checkpoint in a folder, of an adapter or not; an error if it is damaged."""
    recover(folder)
    found = []
    for path in resumable(folder, DCP_METADATA):
        kind = adapter_only  # a damaged manifest doesn't say
        with suppress(ValueError):
            kind = bool(read_manifest(path).get("adapter_only"))
        if kind == adapter_only:
            found.append(path)
    return refuse_damaged(found, check=get_world_size_and_rank()[1] == 0) if found else None


class _MetadataUnpickler(pickle.Unpickler):
    """Reads the index of a distributed checkpoint, and nothing that isn't part of one."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if name in _METADATA_CLASSES.get(module, ()) else None
        if found is None and module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of a checkpoint's index")
        return found


class _SafeReader(dcp.FileSystemReader):
    """Reads an index that holds no code, of files in the folder."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        path = Path(self.path) / DCP_METADATA
        try:
            with path.open("rb") as file:
                metadata = _MetadataUnpickler(file).load()
            for info in metadata.storage_data.values():
                inside(path.parent, info.relative_path, str(path))
        except Exception as error:
            raise ValueError(f"{path} can't be read as the index of a checkpoint: {error}") from error
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _SafePlanner(DefaultLoadPlanner):
    """Loads plain values only: what isn't a tensor is pickled, and must hold no code."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        loaded = torch.load(value, weights_only=True)
        name = read_item.dest_index.fqn
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[name], loaded)
        else:
            self.state_dict[name] = loaded


def load_dcp(state_dict: dict[str, Any], folder: Path, process_group: dist.ProcessGroup | None) -> dict[str, Any]:
    """Load a folder into the tensors of ``state_dict``, in place.

    Raises:
        ValueError: if the folder's files are damaged, hold code, or don't fit.
    """
    reader, planner = _SafeReader(folder), _SafePlanner()
    reader.read_metadata()  # its error, before DCP wraps it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DCP warns wherever there is one process
        try:
            dcp.load(state_dict, storage_reader=reader, planner=planner, process_group=process_group)
        except CheckpointException as error:
            raise ValueError(f"Unable to load checkpoint from {folder}: {_causes(error)}") from error
    return state_dict


def _causes(error: BaseException) -> str:
    """What went wrong on each rank; DCP's own text is a page of tracebacks."""
    if not isinstance(error, CheckpointException):
        return str(error)
    return "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items())


class DCPWriter:
    """Writes drafts by DCP, one at a time, and commits them when all ranks of the group are done."""

    def __init__(self, process_group: dist.ProcessGroup | None = None, keep_last_n: int | None = None) -> None:
        self._keep_last_n = keep_last_n
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
                except (Exception, CheckpointException) as error:
                    shutil.rmtree(draft.path, ignore_errors=True)
                    text = f"the checkpoint {final} could not be written ({_causes(error)}); {ADVICE}"
                    raise OSError(text) from error
                self._commit(draft, final)
                self._barrier()
                return
            future: Any = dcp.async_save(state_dict, storage_writer=writer, process_group=self.process_group)
        # Rank 0's write ends only when all ranks' have. The thread commits at once, so that a later crash loses nothing.
        self._pending = threading.Thread(target=self._complete, args=(future, draft, final), daemon=False)
        self._pending.start()

    def _complete(self, future: Future, draft: Draft, final: Path) -> None:
        try:
            future.result()
            self._commit(draft, final)
        except BaseException as error:  # raised in the training thread, by wait()
            shutil.rmtree(draft.path, ignore_errors=True)
            self._error = error

    def wait(self) -> None:
        """Wait for the save in the background, and raise its error."""
        if self._pending is None:
            return
        self._pending.join()
        self._pending = None
        if self._error is not None:
            error, self._error = self._error, None
            text = f"the checkpoint in the background could not be written ({_causes(error)}); {ADVICE}"
            raise OSError(text) from error
        self._barrier()

    def _commit(self, draft: Draft, final: Path) -> None:
        if self._rank == 0:
            commit(draft, final)
            if self._keep_last_n is not None:
                prune(final.parent, self._keep_last_n, final.name.rpartition("_")[0])

    @property
    def _rank(self) -> int:
        return dist.get_rank(self.process_group) if dist.is_initialized() else 0

    def _barrier(self) -> None:
        if dist.is_initialized():
            dist.barrier(group=self.process_group)
