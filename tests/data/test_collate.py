"""Collation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchtune.data import (
    left_pad_sequence,
    padded_collate,
    padded_collate_dpo,
    padded_collate_packed,
    padded_collate_sft,
    padded_collate_tiled_images_and_mask,
)


def sft(*lengths: int) -> list[dict[str, Any]]:
    return [{"tokens": list(range(1, n + 1)), "labels": list(range(101, n + 101))} for n in lengths]


def test_sft_pads_tokens_and_labels_at_the_end() -> None:
    batch = padded_collate_sft(sft(1, 3), padding_idx=9, ignore_idx=-7)
    assert batch.keys() == {"tokens", "labels"}
    assert batch["tokens"].tolist() == [[1, 9, 9], [1, 2, 3]]
    assert batch["labels"].tolist() == [[101, -7, -7], [101, 102, 103]]
    assert batch["tokens"].dtype == batch["labels"].dtype == torch.int64


def test_a_length_that_is_a_multiple_already_gets_no_extra_block() -> None:
    assert padded_collate_sft(sft(4, 2), pad_to_multiple_of=4)["tokens"].shape == (2, 4)
    assert padded_collate_dpo(dpo((4, 2)), pad_to_multiple_of=4)[0].shape == (2, 4)


def test_the_padded_length_is_a_multiple_when_tokens_and_labels_differ_in_length() -> None:
    batch = padded_collate_sft([{"tokens": [1, 2, 3, 4, 5], "labels": [1, 2, 3]}], pad_to_multiple_of=4)
    assert batch["tokens"].shape == batch["labels"].shape == (1, 8)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 2))
def test_sft_batches_keep_every_sample(lengths: list[int], multiple: int, cp_degree: int) -> None:
    samples = sft(*lengths)
    batch = padded_collate_sft(samples, pad_to_multiple_of=multiple, cp_degree=cp_degree)
    size = batch["tokens"].shape[1]
    assert size % multiple == 0 and max(lengths) <= size < max(lengths) + multiple
    for i, sample in enumerate(samples):
        n = len(sample["tokens"])
        assert batch["tokens"][i].tolist() == sample["tokens"] + [0] * (size - n)
        assert batch["labels"][i].tolist() == sample["labels"] + [-100] * (size - n)
    positions = batch.get("input_pos")
    assert (positions is None) is (cp_degree == 1)
    assert positions is None or positions.tolist() == [list(range(size))] * len(samples)


def test_loss_weights_are_padded_with_zero() -> None:
    samples = [{**sample, "loss_weights": [0.5] * len(sample["tokens"])} for sample in sft(1, 2)]
    assert padded_collate_sft(samples)["loss_weights"].tolist() == [[0.5, 0.0], [0.5, 0.5]]


@pytest.mark.parametrize(("stack", "shape"), [(False, (3, 3, 2, 2)), (True, (3, 1, 3, 2, 2))])
def test_every_key_of_encoder_input_survives(stack: bool, shape: tuple[int, ...]) -> None:
    samples = sft(2, 3)
    for sample, n in zip(samples, (1, 2), strict=True):
        sample["encoder_input"] = {"images": [torch.zeros(1, 3, 2, 2)] * n, "ratio": [torch.ones(1, 2)] * n}
    for batch in (
        padded_collate_sft(samples, stack_on_new_dim=stack),
        padded_collate(
            samples, pad_direction="right", keys_to_pad=["tokens", "labels"], padding_idx=0, stack_on_new_dim=stack
        ),
    ):
        assert batch["encoder_input"].keys() == {"images", "ratio"}
        assert batch["encoder_input"]["images"].shape == shape
        assert batch["encoder_input"]["ratio"].shape == (shape[:-3] + (2,) if stack else (3, 2))


def dpo(*lengths: tuple[int, int]) -> list[dict[str, list[int]]]:
    return [
        {
            f"{kind}_{key}": [start + k for k in range(n)]
            for kind, n, base in (("chosen", chosen, 0), ("rejected", rejected, 50))
            for key, start in (("input_ids", base + 1), ("labels", base + 101))
        }
        for chosen, rejected in lengths
    ]


def test_dpo_puts_all_chosen_before_all_rejected() -> None:
    tokens, labels = padded_collate_dpo(dpo((2, 1), (1, 3)), padding_idx=9, ignore_idx=-7)
    assert tokens.tolist() == [[1, 2, 9], [1, 9, 9], [51, 9, 9], [51, 52, 53]]
    assert labels.tolist() == [[101, 102, -7], [101, -7, -7], [151, -7, -7], [151, 152, 153]]


def test_padding_left_and_right_by_key() -> None:
    batch = [{"a": [1, 2], "b": [1.5], "c": 1}, {"a": [3], "b": [2.5, 3.5], "c": 2}]
    left = padded_collate(batch, pad_direction="left", keys_to_pad=["a", "b"], padding_idx={"a": 0, "b": -1})
    assert left["a"].tolist() == [[1, 2], [0, 3]] and left["b"].tolist() == [[-1.0, 1.5], [2.5, 3.5]]
    assert left["c"].tolist() == [1, 2]
    right = padded_collate(batch, pad_direction="right", keys_to_pad=["a", "b"], padding_idx=7, pad_to_multiple_of=3)
    assert right["a"].tolist() == [[1, 2, 7], [3, 7, 7]] and right["b"].tolist() == [[1.5, 7.0, 7.0], [2.5, 3.5, 7.0]]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"pad_direction": "up"}, "pad_direction should be one of 'left' or 'right' but found 'up'"),
        ({"keys_to_pad": "a"}, "keys_to_pad should be a list"),
        ({"keys_to_pad": []}, "keys_to_pad should be a list"),
        ({"keys_to_pad": ["x"]}, r"keys_to_pad \['x'\] are missing from sample 0"),
        ({"padding_idx": {"b": 0}}, r"padding_idx has keys \['b'\], but expected those to pad: \['a'\]"),
        (
            {"pad_direction": "left", "pad_to_multiple_of": 5},
            "pad_to_multiple_of=5 is not supported for pad_direction='left'",
        ),
    ],
)
def test_bad_options_are_refused(options: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        padded_collate(
            [{"a": [1]}, {"a": [2, 3]}], **{"pad_direction": "right", "keys_to_pad": ["a"], "padding_idx": 0, **options}
        )


@pytest.mark.parametrize("batch_first", [False, True])
def test_left_pad_sequence(batch_first: bool) -> None:
    padded = left_pad_sequence([torch.tensor([1, 2, 3]), torch.tensor([4])], batch_first, 9)
    expected = torch.tensor([[1, 2, 3], [9, 9, 4]])
    assert torch.equal(padded, expected if batch_first else expected.T)


def test_packed_documents_do_not_see_each_other() -> None:
    sample = {
        "tokens": torch.arange(4),
        "labels": torch.arange(4),
        "input_pos": torch.tensor([0, 1, 2, 0]),
        "seq_lens": torch.tensor([3, 1]),
    }
    batch = padded_collate_packed([sample])
    assert torch.equal(batch["tokens"], torch.arange(4)[None])
    if isinstance(batch["mask"], torch.Tensor):
        assert batch["mask"][0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def tiled(length: int, *tiles: int) -> dict[str, Any]:
    return {
        "tokens": list(range(1, length + 1)),
        "labels": list(range(1, length + 1)),
        "encoder_input": {
            "images": [torch.full((n, 3, 2, 2), float(n)) for n in tiles],
            "aspect_ratio": [torch.tensor([1, n]) for n in tiles],
        },
        "encoder_mask": [torch.ones(length, n * 5, dtype=torch.bool) for n in tiles],
    }


@pytest.mark.parametrize(("max_tiles", "n_tiles"), [(None, 3), (4, 4)])
def test_tiled_images_are_padded_in_text_tiles_and_images(max_tiles: int | None, n_tiles: int) -> None:
    batch = padded_collate_tiled_images_and_mask([tiled(2, 3), tiled(4, 1, 2)], pad_max_tiles=max_tiles)
    assert batch["tokens"].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    assert batch["labels"].tolist() == [[1, 2, -100, -100], [1, 2, 3, 4]]
    images = batch["encoder_input"]["images"]
    assert images.shape == (2, 2, n_tiles, 3, 2, 2)
    assert [[image[:, 0, 0, 0].count_nonzero().item() for image in row] for row in images] == [[3, 0], [1, 2]]
    assert batch["encoder_input"]["aspect_ratio"].tolist() == [[[1, 3], [1, 1]], [[1, 1], [1, 2]]]
    mask = batch["encoder_mask"]
    assert mask.shape == (2, 4, 2 * n_tiles * 5)
    assert mask.sum(-1).tolist() == [[15, 15, 0, 0], [15, 15, 15, 15]]
    assert mask[1, 0].reshape(2, n_tiles, 5)[:, :, 0].int().tolist() == [
        [1] + [0] * (n_tiles - 1),
        [1, 1] + [0] * (n_tiles - 2),
    ]


def test_tiled_images_for_generation_are_padded_left() -> None:
    samples = [tiled(2, 3), tiled(4, 1)]
    for sample in samples:
        del sample["labels"]
    batch = padded_collate_tiled_images_and_mask(samples, pad_direction="left", pad_max_images=3)
    assert batch["tokens"].tolist() == [[0, 0, 1, 2], [1, 2, 3, 4]] and "labels" not in batch
    assert batch["encoder_mask"].shape == (2, 4, 3 * 3 * 5)
    assert batch["encoder_mask"].sum(-1).tolist() == [[0, 0, 15, 15], [5, 5, 5, 5]]


def test_tiles_beyond_the_limit_are_refused() -> None:
    with pytest.raises(ValueError, match="up to 3 tiles and 1 images, more than pad_max_tiles=2"):
        padded_collate_tiled_images_and_mask([tiled(2, 3)], pad_max_tiles=2)
