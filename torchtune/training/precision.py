"""Data types: by name, as the default, and checked."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable

import torch

PRECISION_STR_TO_DTYPE: dict[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}


def _set_float32_precision(precision: str = "high") -> None:
    """How float32 matrices are multiplied on a GPU: ``highest``, ``high`` (TF32) or ``medium``."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)


def verify_bf16_support() -> bool:
    """Whether the accelerator computes in bfloat16 and, for several GPUs, NCCL sends it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    if torch.backends.mps.is_available():
        return True
    return hasattr(torch, "xpu") and torch.xpu.is_available() and torch.xpu.is_bf16_supported()


def get_dtype(dtype: str | None = None, device: torch.device | None = None) -> torch.dtype:
    """The dtype that a config names; float32 for None.

    Args:
        dtype: ``fp16``, ``bf16``, ``fp32`` or ``fp64``.
        device: where it will be used; the CPU always has bfloat16.

    Raises:
        ValueError: if there is no such name.
        RuntimeError: if it is ``bf16`` and the device doesn't have it.
    """
    if dtype is None:
        return torch.float32
    if dtype not in PRECISION_STR_TO_DTYPE:
        raise ValueError(f"Dtype {dtype} must be one of {', '.join(PRECISION_STR_TO_DTYPE)} for finetuning.")
    found = PRECISION_STR_TO_DTYPE[dtype]
    on_cpu = device is not None and torch.device(device).type == "cpu"
    if found is torch.bfloat16 and not on_cpu and not verify_bf16_support():
        raise RuntimeError(
            "bf16 precision was requested but not available on this hardware. Please use fp32 precision instead (dtype: fp32)."
        )
    return found


@contextlib.contextmanager
def set_default_dtype(dtype: torch.dtype) -> Generator[None, None, None]:
    """Make new floating tensors have ``dtype`` within a ``with`` statement.

    Args:
        dtype: a floating dtype.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def validate_expected_param_dtype(
    named_params: Iterable[tuple[str, torch.nn.Parameter]],
    dtype: torch.dtype,
    exclude_param_names: list[str] | None = None,
) -> None:
    """Check that parameters have a dtype; quantized ones may have another.

    Args:
        named_params: a model's ``named_parameters()``.
        dtype: the dtype they should have.
        exclude_param_names: parts of names that are left out.

    Raises:
        ValueError: if one has another.
    """
    excluded = exclude_param_names or []
    for name, param in named_params:
        if not any(part in name for part in excluded) and param.dtype != dtype:
            raise ValueError(f"Parameter {name} has dtype {param.dtype}, but expected {dtype}")
