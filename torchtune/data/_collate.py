"""Collation: lists of samples to padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from torchtune.data._common import CROSS_ENTROPY_IGNORE_IDX


def left_pad_sequence(
    sequences: list[torch.Tensor], batch_first: bool = False, padding_value: float = 0
) -> torch.Tensor:
    """Stack tensors of different length, padded at the start.

    Args:
        sequences: tensors ``[s_i, *]``.
        batch_first: whether the batch is the first dimension of the result.
        padding_value: what to pad with.

    Returns:
        ``[b, s, *]`` if ``batch_first``, else ``[s, b, *]``, with s the longest.
    """
    flipped = [sequence.flip(0) for sequence in sequences]
    padded = torch.nn.utils.rnn.pad_sequence(flipped, batch_first=batch_first, padding_value=padding_value)
    return padded.flip(int(batch_first))


def padded_collate(
    batch: list[dict[str, list[int]]],
    *,
    pad_direction: str,
    keys_to_pad: list[str],
    padding_idx: int | dict[str, int],
    pad_to_multiple_of: int = 1,
    stack_on_new_dim: bool = False,
) -> dict[str, torch.Tensor]:
    """Pad some keys of a list of samples to one length each, and make tensors of the others.

    Args:
        batch: samples with the same keys.
        pad_direction: ``left`` or ``right``.
        keys_to_pad: the keys that hold lists of different length.
        padding_idx: what to pad with, for all keys or by key.
        pad_to_multiple_of: the padded length is a multiple of this; ``right`` only.
        stack_on_new_dim: for ``encoder_input``, stack its tensors on a new dimension instead of joining them on the
            first one.

    Returns:
        By key a tensor: ``[b, s]`` for padded keys, ``[b]`` or ``[b, *]`` for the others.

    Raises:
        ValueError: if an option has no such value, a key is missing from a sample, or ``pad_to_multiple_of`` is asked
            for with ``left``.
    """
    if pad_direction not in ("left", "right"):
        raise ValueError(f"pad_direction should be one of 'left' or 'right' but found {pad_direction!r}")
    if not isinstance(keys_to_pad, list) or not keys_to_pad:
        raise ValueError(
            f"keys_to_pad should be a list of strings with at least one element, but found {keys_to_pad!r}"
        )
    for i, sample in enumerate(batch):
        if missing := [key for key in keys_to_pad if key not in sample]:
            raise ValueError(f"keys_to_pad {missing} are missing from sample {i} of the batch; found {list(sample)}")
    if isinstance(padding_idx, dict) and padding_idx.keys() != set(keys_to_pad):
        raise ValueError(
            f"padding_idx has keys {sorted(padding_idx)}, but expected those to pad: {sorted(keys_to_pad)}"
        )
    if pad_direction == "left" and pad_to_multiple_of > 1:
        raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of} is not supported for pad_direction='left'")
    values = padding_idx if isinstance(padding_idx, dict) else dict.fromkeys(keys_to_pad, padding_idx)
    output: dict[str, Any] = {}
    for key in batch[0]:
        if key in keys_to_pad:
            output[key] = _pad([sample[key] for sample in batch], values[key], pad_direction, pad_to_multiple_of)
        elif key == "encoder_input":
            output[key] = _encoder_input([sample[key] for sample in batch], stack_on_new_dim)  # type: ignore[misc]
        else:
            output[key] = _tensors([sample[key] for sample in batch])
    return output


def padded_collate_sft(
    batch: list[dict[str, Any]],
    padding_idx: int = 0,
    ignore_idx: int = CROSS_ENTROPY_IGNORE_IDX,
    pad_to_multiple_of: int = 1,
    stack_on_new_dim: bool = False,
    cp_degree: int = 1,
) -> dict[str, torch.Tensor]:
    """A batch of supervised samples: ``tokens`` and ``labels`` padded at the end to one length.

    Args:
        batch: samples with ``tokens`` and ``labels``, maybe ``encoder_input``; ``loss_weights`` ``[s]``, 1 in samples
            that have none, are padded with 0.
        padding_idx: id to pad tokens with.
        ignore_idx: label to pad labels with.
        pad_to_multiple_of: the padded length is a multiple of this.
        stack_on_new_dim: as in :func:`padded_collate`.
        cp_degree: ranks that share a sequence; above 1, ``input_pos`` is added, so that each rank knows its positions.

    Returns:
        ``tokens`` and ``labels`` ``[b, s]``, and what else the samples have; no ``encoder_input`` without images.
    """
    size = _round_up(max(max(len(sample["tokens"]), len(sample["labels"])) for sample in batch), pad_to_multiple_of)
    output: dict[str, Any] = {
        "tokens": _pad([sample["tokens"] for sample in batch], padding_idx, "right", size=size),
        "labels": _pad([sample["labels"] for sample in batch], ignore_idx, "right", size=size),
    }
    output |= _loss_weights(batch, size)
    if "encoder_input" in batch[0]:
        encoder_input = _encoder_input([sample["encoder_input"] for sample in batch], stack_on_new_dim)
        output.update({"encoder_input": encoder_input} if encoder_input else {})
    if cp_degree > 1:
        output["input_pos"] = torch.arange(size).expand(len(batch), size).contiguous()
    return output


def padded_collate_dpo(
    batch: list[dict[str, list[int]]],
    padding_idx: int = 0,
    ignore_idx: int = CROSS_ENTROPY_IGNORE_IDX,
    pad_to_multiple_of: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of preference samples: first all chosen, then all rejected, padded at the end to one length.

    See :func:`padded_collate_sft` for the padding.

    Args:
        batch: samples with ``chosen_input_ids``, ``chosen_labels``, ``rejected_input_ids``, ``rejected_labels``.

    Returns:
        Tokens and labels, each ``[2 * b, s]``.
    """
    tokens = [sample[f"{kind}_input_ids"] for kind in ("chosen", "rejected") for sample in batch]
    labels = [sample[f"{kind}_labels"] for kind in ("chosen", "rejected") for sample in batch]
    size = _round_up(max(len(row) for row in (*tokens, *labels)), pad_to_multiple_of)
    return _pad(tokens, padding_idx, "right", size=size), _pad(labels, ignore_idx, "right", size=size)


def padded_collate_packed(batch: list[dict[str, torch.Tensor | list[int]]]) -> dict[str, torch.Tensor]:
    """A batch of packed samples, with the mask that keeps their documents apart.

    Args:
        batch: samples of one length with ``tokens``, ``labels``, ``input_pos`` and ``seq_lens``, maybe ``loss_weights``.

    Returns:
        ``tokens``, ``labels``, ``input_pos`` ``[b, s]``, and ``mask``: ``[b, s, s]`` booleans, or a flex-attention block
        mask where that is used.
    """
    from torchtune.modules.attention_utils import packed_block_causal_mask

    output = {key: _tensors([sample[key] for sample in batch]) for key in ("tokens", "labels", "input_pos")}
    seq_lens = [torch.as_tensor(sample["seq_lens"]) for sample in batch]
    weights = _loss_weights(batch, output["labels"].shape[1])
    return {**output, **weights, "mask": packed_block_causal_mask(seq_lens=seq_lens)}  # type: ignore[dict-item]


def padded_collate_tiled_images_and_mask(
    batch: list[dict[str, Any]],
    padding_idx: int = 0,
    ignore_idx: int = CROSS_ENTROPY_IGNORE_IDX,
    pad_direction: str = "right",
    pad_max_tiles: int | None = None,
    pad_max_images: int | None = None,
    pad_to_multiple_of: int = 1,
) -> dict[str, torch.Tensor]:
    """A batch of samples with tiled images, for models whose text attends to images through cross-attention.

    See :func:`padded_collate_sft` for the padding of text.

    Args:
        batch: samples with ``tokens``, ``labels`` (not needed with ``left``), ``encoder_input`` of ``images``: a list of
            ``[n_tiles, c, h, w]``, and ``aspect_ratio``: a list of ``[2]``; and ``encoder_mask``: for each image
            booleans ``[s, n_tiles * tokens_per_tile]``.
        pad_direction: ``right`` for training, ``left`` for generation.
        pad_max_tiles: pad each image to this many tiles instead of the most in the batch.
        pad_max_images: pad each encoder mask to this many images instead of the most in the batch.
        pad_to_multiple_of: the padded text length is a multiple of this; ``right`` only.

    Returns:
        ``tokens`` and ``labels`` ``[b, s]``; ``encoder_input`` with ``images`` ``[b, n_images, n_tiles, c, h, w]`` and
        ``aspect_ratio`` ``[b, n_images, 2]``; ``encoder_mask`` ``[b, s, n_images * n_tiles * tokens_per_tile]``. Only
        ``tokens`` and ``labels`` where no sample has an image.

    Raises:
        ValueError: if ``pad_direction`` has no such value, or something is larger than it is to be padded to.
    """
    text_keys = ["tokens", *(["labels"] if pad_direction == "right" else [])]
    text = padded_collate(
        [{key: sample[key] for key in text_keys} for sample in batch],
        pad_direction=pad_direction,
        keys_to_pad=text_keys,
        padding_idx={key: {"tokens": padding_idx, "labels": ignore_idx}[key] for key in text_keys},
        pad_to_multiple_of=pad_to_multiple_of,
    )
    size = max(tensor.shape[1] for tensor in text.values())
    fill = {"tokens": padding_idx, "labels": ignore_idx}
    text = {key: F.pad(tensor, (0, size - tensor.shape[1]), value=fill[key]) for key, tensor in text.items()}
    all_images = [image for sample in batch for image in sample["encoder_input"]["images"]]
    most_tiles = max((image.shape[0] for image in all_images), default=0)
    most_images = max((len(sample["encoder_input"]["images"]) for sample in batch), default=0)
    if not all_images:
        return text
    n_tiles, n_images = pad_max_tiles or most_tiles, pad_max_images or most_images
    if n_tiles < most_tiles or n_images < most_images:
        raise ValueError(
            f"The batch has up to {most_tiles} tiles and {most_images} images, more than pad_max_tiles={pad_max_tiles} "
            f"and pad_max_images={pad_max_images}"
        )
    images, ratios, masks = [], [], []
    for sample in batch:
        own = sample["encoder_input"]["images"]
        empty = most_images - len(own)
        tiles = [_pad_dims(image, {0: n_tiles}) for image in own]
        template = all_images[0]
        images.append(torch.stack([*tiles, *[template.new_zeros(n_tiles, *template.shape[1:])] * empty]))
        # An image that is not there gets one tile, so that every aspect ratio is a valid one.
        own_ratios = [torch.as_tensor(ratio) for ratio in sample["encoder_input"]["aspect_ratio"]]
        ratios.append(torch.stack([*own_ratios, *[torch.ones(2, dtype=torch.long)] * empty]))
        columns = [
            _pad_mask(mask, size, n_tiles * (mask.shape[1] // image.shape[0]), pad_direction)
            for mask, image in zip(sample["encoder_mask"], own, strict=True)
        ]
        masks.append(torch.cat(columns, dim=1) if columns else torch.zeros(size, 0, dtype=torch.bool))
    width = max(mask.shape[1] for mask in masks)
    width = width if pad_max_images is None else n_images * (width // max(most_images, 1))
    return {
        **text,
        **_loss_weights(batch, size, pad_direction),
        "encoder_input": {"images": torch.stack(images), "aspect_ratio": torch.stack(ratios)},  # type: ignore[dict-item]
        "encoder_mask": torch.stack([_pad_dims(mask, {1: width}) for mask in masks]),
    }


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _pad(rows: Sequence[Any], value: float, direction: str, multiple: int = 1, size: int | None = None) -> torch.Tensor:
    """Rows of numbers as one tensor ``[b, s]``, padded to the longest, or to ``size``."""
    size = _round_up(max(len(row) for row in rows), multiple) if size is None else size
    tensors = [torch.as_tensor(row) for row in rows]
    dtypes = [tensor.dtype for tensor in tensors if len(tensor)]
    dtype = dtypes[0] if dtypes else torch.long
    padded = torch.full((len(rows), size), value, dtype=dtype)
    for out, tensor in zip(padded, tensors, strict=True):
        start = size - len(tensor) if direction == "left" else 0
        out[start : start + len(tensor)] = tensor
    return padded


def _loss_weights(batch: Sequence[Mapping[str, Any]], size: int, direction: str = "right") -> dict[str, torch.Tensor]:
    """``loss_weights`` ``[b, s]`` where a sample has any; those of the others are 1, and 0 on padding."""
    if not any("loss_weights" in sample for sample in batch):
        return {}
    ones = [torch.ones(len(sample["tokens"])) for sample in batch]
    rows = [torch.as_tensor(sample.get("loss_weights", one)).float() for sample, one in zip(batch, ones, strict=True)]
    return {"loss_weights": _pad(rows, 0.0, direction, size=size)}


def _tensors(values: Sequence[Any]) -> torch.Tensor:
    """Values of one shape as one tensor ``[b, *]``."""
    return torch.stack(list(values)) if isinstance(values[0], torch.Tensor) else torch.tensor(values)


def _encoder_input(samples: Sequence[Mapping[str, Any]], stack_on_new_dim: bool) -> dict[str, torch.Tensor]:
    """The encoder inputs of a batch: under each key all tensors, of all samples, joined or stacked.

    Inputs by the name of an encoder, of models with early fusion, stay apart by sample: ``[b, n, *]``.
    """
    output: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if isinstance(values[0], Mapping):
            named = {name: _rows([list(value[name]) for value in values]) for name in values[0]}
            if all(tensor is not None for tensor in named.values()):
                output[key] = named
            continue
        tensors: list[torch.Tensor] = []
        for value in values:
            tensors.extend([value] if isinstance(value, torch.Tensor) else value)
        if tensors:
            output[key] = torch.stack(tensors) if stack_on_new_dim else torch.cat(tensors)
    return output


def _rows(samples: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor | None:
    """Tensors ``[n_i, *]`` of each sample, joined and padded with zeros: ``[b, n, *]``; None if there are none at all."""
    some = next((tensor for tensors in samples for tensor in tensors), None)
    if some is None:
        return None
    empty = some.new_zeros(0, *some.shape[1:])
    rows = [torch.cat([empty, *tensors]) for tensors in samples]
    size = max(len(row) for row in rows)
    return torch.stack([_pad_dims(row, {0: size}) for row in rows])


def _pad_dims(tensor: torch.Tensor, sizes: Mapping[int, int]) -> torch.Tensor:
    """A tensor with zeros added at the end of some dimensions."""
    padding = [0] * (2 * tensor.dim())
    for dim, size in sizes.items():
        padding[2 * (tensor.dim() - 1 - dim) + 1] = size - tensor.shape[dim]
    return F.pad(tensor, padding)


def _pad_mask(mask: torch.Tensor, rows: int, columns: int, direction: str) -> torch.Tensor:
    """A mask ``[s, i]`` padded with False to ``[rows, columns]``; text is padded on the side that tokens are."""
    missing = rows - mask.shape[0]
    above, below = (missing, 0) if direction == "left" else (0, missing)
    return F.pad(mask, (0, columns - mask.shape[1], above, below))
