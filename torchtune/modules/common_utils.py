"""KV caches for a while, and state dicts without quantized tensors."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Generator
from typing import Any

import torch
from torch import nn

from torchtune.modules.attention import MultiHeadAttention
from torchtune.modules.low_precision._nf4 import dequantize, is_nf4


def reparametrize_as_dtype_state_dict_post_hook(
    model: nn.Module,
    state_dict: dict[str, Any],
    *args: Any,
    dtype: torch.dtype = torch.bfloat16,
    offload_to_cpu: bool = True,
    **kwargs: Any,
) -> None:
    """State-dict hook that replaces NF4 weights by plain ones, so that checkpoints are the unquantized model's.

    Args:
        model (nn.Module): the model, not used.
        state_dict (dict[str, Any]): changed in place.
        dtype (torch.dtype): of the plain weights.
        offload_to_cpu (bool): put them on the CPU, so that the model's device holds one at a time.
    """
    for key, value in state_dict.items():
        if is_nf4(value):
            plain = dequantize(value, dtype)
            state_dict[key] = plain.cpu() if offload_to_cpu else plain


# Both do the same: dequantizing one tensor at a time needs no disk.
_low_ram_reparametrize_as_dtype_state_dict_post_hook = reparametrize_as_dtype_state_dict_post_hook


def passed_on(path: str, doc: str) -> Any:
    """A property that is one of a part's, such as ``decoder.norm``."""
    get = operator.attrgetter(path)

    def value(self: Any) -> Any:
        return get(self)

    value.__doc__ = doc
    return property(value)


def _cached_attention(model: nn.Module) -> list[MultiHeadAttention]:
    return [m for m in model.modules() if isinstance(m, MultiHeadAttention) and m.kv_cache is not None]


@contextlib.contextmanager
def disable_kv_cache(model: nn.Module) -> Generator[None, None, None]:
    """Let a model with KV caches compute without them; what they hold is kept.

    Args:
        model (nn.Module): a model with KV caches.

    Yields:
        None: with the caches off.

    Raises:
        ValueError: if the model has no KV caches, or they are off already.
    """
    if not model.caches_are_setup():  # type: ignore[operator]
        raise ValueError("Model caches must be setup before calling disable_kv_cache! Use model.setup_caches first.")
    if not model.caches_are_enabled():  # type: ignore[operator]
        raise ValueError("You are calling disable_kv_cache twice: the model's caches are off already.")
    attentions = _cached_attention(model)
    caches = [attention.kv_cache for attention in attentions]
    for attention in attentions:
        attention.cache_enabled = False
        attention.kv_cache = None
    try:
        yield
    finally:
        for attention, cache in zip(attentions, caches, strict=True):
            attention.cache_enabled = True
            attention.kv_cache = cache


@contextlib.contextmanager
def local_kv_cache(
    model: nn.Module,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    encoder_max_seq_len: int | None = None,
    decoder_max_seq_len: int | None = None,
) -> Generator[None, None, None]:
    """Give a model KV caches for a while.

    Args:
        model (nn.Module): a model without KV caches.
        batch_size (int): most sequences at once.
        device (torch.device): of the caches.
        dtype (torch.dtype): of the caches.
        encoder_max_seq_len (int | None): most encoder outputs per sequence.
        decoder_max_seq_len (int | None): most tokens per sequence.

    Yields:
        None: with the caches set up; they are deleted afterwards.

    Raises:
        ValueError: if the model has KV caches.
    """
    if model.caches_are_setup():  # type: ignore[operator]
        raise ValueError(
            "Model caches must be not setup prior to entering this context manager! "
            "Use disable_kv_cache to leave them out, or delete_kv_caches to be rid of them."
        )
    with torch.device(device):
        model.setup_caches(  # type: ignore[operator]
            batch_size, dtype, encoder_max_seq_len=encoder_max_seq_len, decoder_max_seq_len=decoder_max_seq_len
        )
    try:
        yield
    finally:
        delete_kv_caches(model)


def delete_kv_caches(model: nn.Module) -> None:
    """Delete a model's KV caches and free their memory.

    Args:
        model (nn.Module): a model with KV caches.

    Raises:
        ValueError: if it has none, or they are off.
    """
    if not (model.caches_are_setup() and model.caches_are_enabled()):  # type: ignore[operator]
        raise ValueError(
            "You have tried to delete model caches, but model.caches_are_setup() or model.caches_are_enabled() is "
            "False! Please set up KV caches first."
        )
    for attention in _cached_attention(model):
        attention.cache_enabled = False
        attention.kv_cache = None


def slice_str_to_array(slice_str: str, length: int) -> list[bool]:
    """Which indexes a text such as ``"0,1,5:"`` selects.

    Args:
        slice_str (str): indexes and Python slices, separated by commas; ``":"`` is all.
        length (int): number of indexes.

    Returns:
        list[bool]: True for each selected index.

    Raises:
        ValueError: for anything that is no index or slice, or an index out of range.
    """
    selected = [False] * length
    for part in slice_str.split(","):
        try:
            numbers = [int(text) if text.strip() else None for text in part.split(":")]
            if len(numbers) == 1:
                if numbers[0] is None:
                    raise ValueError("it is empty")
                selected[numbers[0]] = True
            else:
                for index in range(length)[slice(*numbers)]:
                    selected[index] = True
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(
                f"{part!r} in {slice_str!r} is no index or slice of {length} items: {error}. Write, for instance, '0,2:4'"
            ) from None
    return selected
