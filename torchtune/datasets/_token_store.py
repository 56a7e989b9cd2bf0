"""Tokens and labels of many samples, one after another: in memory, or in a folder as memory-mapped files.

Where a sample has loss weights there is a third array, of float32; samples without any have 1 in it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

_log = logging.getLogger(__name__)
_VERSION = 2
#: Samples that are made again to see whether a cache still holds what the dataset gives of its rows.
_PROBES = 64
_KINDS = ("tokens", "labels")


class Arrays:
    """A store in memory."""

    def __init__(self) -> None:
        self._arrays = {kind: array("i") for kind in _KINDS}
        self._weights = array("f")

    def add(self, tokens: Any, labels: Any, weights: Any = None) -> tuple[int, int]:
        """Appends a sample; gives where its tokens start and stop."""
        into = self._arrays["tokens"]
        start = len(into)
        for kind, values in zip(_KINDS, (tokens, labels), strict=True):
            if isinstance(values, np.ndarray):
                self._arrays[kind].frombytes(values.astype(np.int32, copy=False).tobytes())
            else:
                self._arrays[kind].fromlist(values if isinstance(values, list) else list(values))
        if weights is not None or self._weights:
            self._weights.frombytes(_weights(weights, start - len(self._weights), len(tokens)))
        return start, len(into)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Tokens and labels ``[n]``, and loss weights ``[n]`` where a sample has any."""
        tokens, labels = (
            np.frombuffer(ids, np.int32) if ids else np.empty(0, np.int32) for ids in self._arrays.values()
        )
        return tokens, labels, np.frombuffer(self._weights, np.float32) if self._weights else None


class _Writer:
    """A store that is being written to a folder; only the lengths stay in memory."""

    def __init__(self, folder: Path) -> None:
        self._files = {kind: open(folder / f"{kind}.i32", "wb") for kind in _KINDS}  # noqa: SIM115
        self._weights = folder / "weights.f32"
        self.ends = array("q")

    def add(self, tokens: Any, labels: Any, weights: Any = None) -> tuple[int, int]:
        start = self.ends[-1] if self.ends else 0
        for kind, values in zip(_KINDS, (tokens, labels), strict=True):
            self._files[kind].write(np.asarray(values, np.int32).tobytes())
        if weights is not None or "weights" in self._files:
            missing = 0
            if "weights" not in self._files:
                self._files["weights"], missing = open(self._weights, "wb"), start  # noqa: SIM115
            self._files["weights"].write(_weights(weights, missing, len(tokens)))
        self.ends.append(start + len(tokens))
        return start, self.ends[-1]

    def close(self) -> None:
        for file in self._files.values():
            file.close()


Store = Arrays | _Writer


class Mapped:
    """A store that a folder holds."""

    def __init__(self, folder: Path) -> None:
        self._ends = np.load(folder / "ends.npy", mmap_mode="r")
        tokens, labels = (_mapped(folder / f"{kind}.i32") for kind in _KINDS)
        weights = folder / "weights.f32"
        self.arrays = tokens, labels, np.memmap(weights, np.float32, "r") if weights.is_file() else None

    def spans(self) -> Iterator[tuple[int, int]]:
        """Where each sample's tokens start and stop."""
        start = 0
        for at in range(0, len(self._ends), 65_536):
            for end in self._ends[at : at + 65_536].tolist():
                yield start, end
                start = end


def _weights(weights: Any, missing: int, length: int) -> bytes:
    """The weights of a sample, 1 where it has none, after as many ones as are missing before it."""
    own = np.ones(length, np.float32) if weights is None else np.asarray(weights, np.float32)
    return np.ones(missing, np.float32).tobytes() + own.tobytes()


def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, np.int32, "r") if path.stat().st_size else np.empty(0, np.int32)


def cached_tokens(ds: Any, folder: str | os.PathLike[str], fill: Callable[[Store], None]) -> Mapped:
    """The tokens of a dataset with a length from a folder, which ``fill`` writes first if it does not hold them.

    On several ranks the first of each machine writes, and the others wait.
    """
    if not hasattr(ds, "__len__"):
        raise ValueError(f"cache_dir needs a dataset with a length, but {type(ds).__name__} has none")
    path = Path(folder).expanduser()
    distributed = dist.is_available() and dist.is_initialized()
    if not distributed or int(os.environ.get("LOCAL_RANK", dist.get_rank())) == 0:
        problem = _problem(ds, path)
        if problem:
            _log.info("Writing the tokens of %d samples to %s: %s", len(ds), path, problem)
            _write(ds, path, fill)
    if distributed:
        dist.barrier()
    return Mapped(path)


def _write(ds: Any, path: Path, fill: Callable[[Store], None]) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.mkdir(parents=True)
    try:
        writer = _Writer(draft)
        try:
            fill(writer)
        finally:
            writer.close()
        np.save(draft / "ends.npy", np.frombuffer(writer.ends, np.int64) if writer.ends else np.empty(0, np.int64))
        meta = {
            "version": _VERSION,
            "samples": len(ds),
            "probes": _probes(ds),
            "rows": _rows(ds),
            "sizes": _sizes(draft),
        }
        (draft / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        if path.exists():
            if any(path.iterdir()) and not (path / "meta.json").is_file():
                raise ValueError(f"cache_dir {path} holds files that are no cache of tokens; name another folder")
            shutil.rmtree(path)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _problem(ds: Any, path: Path) -> str | None:
    """Why a folder cannot be used as it is; None where it can."""
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "there is no cache yet"
    if meta.get("version") != _VERSION:
        return "it was written by another version"
    if meta["samples"] != len(ds):
        return f"it holds {meta['samples']} samples"
    if meta["sizes"] != _sizes(path):
        return "its files are damaged"
    if meta["rows"] != _rows(ds):
        return "the rows have changed"
    return None if meta["probes"] == _probes(ds) else "the dataset gives other tokens now"


def _sizes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.suffix != ".json"}


def _rows(ds: Any) -> Any:
    """What changes with any row that a dataset is made of; None where it doesn't say."""
    parts = getattr(ds, "_datasets", None)
    if parts is not None:
        return [_rows(part) for part in parts]
    rows: Any = getattr(ds, "_data", None)
    return rows.fingerprint() if hasattr(rows, "fingerprint") else getattr(rows, "_fingerprint", None)


def _probes(ds: Any) -> list[str]:
    """Fingerprints of a few samples from all over the dataset."""
    import hashlib

    count = min(_PROBES, len(ds))
    samples = [ds[round(i * (len(ds) - 1) / max(count - 1, 1))] for i in range(count)]
    return [
        hashlib.sha256(
            b"".join(np.asarray(sample[kind], np.int32).tobytes() for kind in _KINDS)
            + np.asarray(sample.get("loss_weights", ()), np.float32).tobytes()
        ).hexdigest()[:16]
        for sample in samples
    ]
