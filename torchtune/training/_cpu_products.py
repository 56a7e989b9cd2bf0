"""Matrix products in fp32 on AMD processors: MKL leaves their AVX-512 unused, oneDNN doesn't."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import torch
from torch import Tensor

#: Multiplications below which the call costs more than it saves.
_SMALL = 2**20
#: Numbers of a block of a product that is copied or added elsewhere: it stays in the processor's cache.
_BLOCK = 2**18


def fast_fp32_products(device: torch.device | str, dtype: torch.dtype) -> bool:
    """Whether this process' products in fp32 are now by oneDNN, not MKL: on an AMD processor with AVX-512.

    They take half the time or less, and are rounded otherwise: both are within a few 1e-7 of exact products. Replaces
    torch's own kernels of ``mm``, ``addmm`` and ``addmm_`` for the CPU, for as long as the process lives.

    Args:
        device (torch.device | str): where the run's tensors are; for others than ``cpu`` nothing is done.
        dtype (torch.dtype): of the model; for others than fp32 nothing is done.
    """
    if torch.device(device).type != "cpu" or dtype != torch.float32:
        return False
    return _helps() and _replaced() is not None


def _helps() -> bool:
    information = Path("/proc/cpuinfo")
    amd = information.is_file() and "AuthenticAMD" in information.read_text(encoding="utf-8", errors="replace")
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkl.is_available()
    return amd and wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def _replaced() -> torch.library.Library:
    """What holds the replacements: without it they are gone."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that its kernels are replaced
        for name, kernel in {"mm": _mm, "mm.out": _mm_out, "addmm": _addmm, "addmm_": _addmm_}.items():
            library.impl(name, kernel, "CPU", allow_override=True)
    return library


def _suits(a: Tensor, b: Tensor) -> bool:
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and a.dtype == b.dtype == torch.float32
    return fits and a.shape[0] * a.shape[1] * b.shape[1] >= _SMALL


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")


def _torchs_own(c: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float, out: Tensor) -> Tensor:
    return torch.ops.aten.addmm.out(c, a, b, beta=beta, alpha=alpha, out=out)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    return _product(a, b) if _suits(a, b) else _mm_by_torch(a, b, a.new_empty(0))


def _mm_by_torch(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return _torchs_own(a.new_zeros(()), a, b, 0, 1, out)


def _mm_out(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    if not _suits(a, b) or out.shape != (a.shape[0], b.shape[1]) or out.dtype != a.dtype:
        return _mm_by_torch(a, b, out)
    rows, columns = out.shape
    if rows > columns:
        for part, into in zip(*(x.split(max(1, _BLOCK // columns)) for x in (a, out)), strict=True):
            into.copy_(_product(part, b))
    else:
        for part, into in zip(*(x.split(max(1, _BLOCK // rows), dim=1) for x in (b, out)), strict=True):
            into.copy_(_product(a, part))
    return out


def _addmm(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if beta == alpha == 1 and c.dim() == 1 and c.dtype == a.dtype and len(c) == b.shape[-1] and _suits(a, b):
        return _product(a, b, c)
    return _torchs_own(c, a, b, beta, alpha, a.new_empty(0))


def _addmm_(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if beta != 1 or not _suits(a, b) or c.shape != (a.shape[0], b.shape[1]) or c.dtype != a.dtype:
        return _torchs_own(c, a, b, beta, alpha, c)
    for part, into in zip(*(x.split(max(1, _BLOCK // b.shape[1])) for x in (a, c)), strict=True):
        into.add_(_product(part, b), alpha=alpha)
    return c
