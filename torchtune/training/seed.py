"""Seeds, and the state of every random number generator that training draws from."""

from __future__ import annotations

import logging
import os
import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from torchtune.training._distributed import get_world_size_and_rank

_log = logging.getLogger("torchtune")


def set_seed(seed: int | None = None, debug_mode: str | int | None = None) -> int:
    """The seed, which Python's, NumPy's and torch's generators get, each rank ``seed + rank``.

    Args:
        seed: from 0 to ``2**32 - world size``; None draws one, the same on every rank.
        debug_mode: for :func:`torch.set_deterministic_debug_mode`: ``default`` or 0, ``warn`` or 1, ``error`` or 2; cuDNN is
            made deterministic for the latter two.

    Raises:
        ValueError: if the seed is out of range.
    """
    world_size, rank = get_world_size_and_rank()
    largest = int(np.iinfo(np.uint32).max) - world_size + 1
    if seed is None:
        drawn: list[int | None] = [int(torch.randint(0, largest, (1,)))]
        if world_size > 1:
            dist.broadcast_object_list(drawn, src=0)
        seed = int(drawn[0] or 0)
    if not 0 <= seed <= largest:
        raise ValueError(f"Invalid seed value provided: {seed}. Value must be in the range [0, {largest}]")
    local_seed = seed + rank
    if rank == 0:
        _log.info("Seed is %d (each rank adds its number)", seed)
    torch.manual_seed(local_seed)
    np.random.seed(local_seed)
    random.seed(local_seed)
    if debug_mode is not None:
        torch.set_deterministic_debug_mode(debug_mode)
        deterministic = torch.get_deterministic_debug_mode() > 0
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.benchmark = not deterministic
        if deterministic:  # cuBLAS is deterministic with a workspace of fixed size only
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return seed


def get_rng_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators (this process's GPU included), as plain values and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    integers = torch.from_numpy(np.asarray(keys).astype(np.int64))
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, integers, int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Go on drawing where :func:`get_rng_state` was called.

    Args:
        state: what it returned; a GPU's state is left out where there is no GPU.
    """
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
