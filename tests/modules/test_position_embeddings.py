"""Rotary embeddings: angles, positions, and buffers that build themselves."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from torchtune.modules import RotaryPositionalEmbeddings, VisionRotaryPositionalEmbeddings


def rotated(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """The definition, one complex number at a time."""
    out = torch.empty_like(x)
    dim = x.shape[-1]
    for b in range(x.shape[0]):
        for s in range(x.shape[1]):
            for i in range(dim // 2):
                angle = float(positions[b, s]) / base ** (2 * i / dim)
                even, odd = x[b, s, :, 2 * i], x[b, s, :, 2 * i + 1]
                out[b, s, :, 2 * i] = even * math.cos(angle) - odd * math.sin(angle)
                out[b, s, :, 2 * i + 1] = even * math.sin(angle) + odd * math.cos(angle)
    return out


def test_rope_equals_its_definition_at_given_positions() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 8)
    rope = RotaryPositionalEmbeddings(8, max_seq_len=16, base=100)
    order = torch.arange(4).expand(2, 4)
    torch.testing.assert_close(rope(x), rotated(x, order, 100))
    positions = torch.tensor([[0, 1, 0, 1], [5, 9, 15, 2]])
    torch.testing.assert_close(rope(x, input_pos=positions), rotated(x, positions, 100))
    torch.testing.assert_close(rope(x, input_pos=positions[1]), rotated(x, positions[1].expand(2, 4), 100))


def test_positions_changed_in_place_are_looked_up_anew() -> None:
    x, rope = torch.randn(1, 2, 1, 4), RotaryPositionalEmbeddings(4, max_seq_len=8)
    positions = torch.tensor([[0, 1]])
    rope(x, input_pos=positions)
    positions += 3
    torch.testing.assert_close(rope(x, input_pos=positions), rotated(x, torch.tensor([[3, 4]]), 10_000))
    with torch.inference_mode():
        inside = torch.tensor([[6, 7]])
        torch.testing.assert_close(rope(x, input_pos=inside), rotated(x, torch.tensor([[6, 7]]), 10_000))


def test_input_longer_than_the_cache_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="9 positions.*max_seq_len=8"):
        RotaryPositionalEmbeddings(4, max_seq_len=8)(torch.randn(1, 9, 1, 4))


@pytest.mark.parametrize("how", ["to_empty", "assign", "to_empty_shared", "rope_init"])
def test_rope_made_on_the_meta_device_builds_itself(how: str) -> None:
    with torch.device("meta"):
        rope = RotaryPositionalEmbeddings(8, max_seq_len=16)
        model = nn.ModuleList([nn.Linear(2, 2), rope, nn.Sequential(rope)])
    assert rope.cache.is_meta
    if how == "to_empty":
        rope.to_empty(device="cpu")
    elif how == "to_empty_shared":
        model.to_empty(device="cpu")
    elif how == "rope_init":
        rope.rope_init()
    else:
        weights = {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)}
        model.load_state_dict(weights, assign=True)
    x = torch.randn(1, 5, 2, 8)
    torch.testing.assert_close(rope(x), RotaryPositionalEmbeddings(8, max_seq_len=16)(x))


def test_casting_the_model_leaves_the_angles_in_fp32() -> None:
    rope = nn.Sequential(RotaryPositionalEmbeddings(8, max_seq_len=512)).bfloat16()[0]
    assert rope.cache.dtype == torch.float32
    x = torch.randn(1, 512, 1, 8).bfloat16()
    want = RotaryPositionalEmbeddings(8, max_seq_len=512)(x.float()).bfloat16()
    torch.testing.assert_close(rope(x), want, atol=0, rtol=0)


def test_meta_model_stays_on_meta_when_cast() -> None:
    with torch.device("meta"):
        rope = RotaryPositionalEmbeddings(8, max_seq_len=16)
    assert rope.to(torch.bfloat16).cache.is_meta


def test_moving_only_left_over_meta_buffers_to_a_real_device_works() -> None:
    with torch.device("meta"):
        rope = RotaryPositionalEmbeddings(8, max_seq_len=16)
    assert not rope.to("cpu").cache.is_meta


def test_buffers_are_not_saved_and_the_module_can_be_copied_and_pickled() -> None:
    rope = RotaryPositionalEmbeddings(8, max_seq_len=16)
    positions = torch.tensor([[1, 2]])
    x = torch.randn(1, 2, 1, 8)
    want = rope(x, input_pos=positions)
    assert rope.state_dict() == {}
    file = io.BytesIO()
    torch.save(rope, file)
    file.seek(0)
    for twin in (copy.deepcopy(rope), torch.load(file, weights_only=False)):
        torch.testing.assert_close(twin(x, input_pos=positions), want)


def test_build_rope_cache_changes_the_number_of_positions() -> None:
    rope = RotaryPositionalEmbeddings(4, max_seq_len=8)
    rope.build_rope_cache(32)
    assert rope.cache.shape == (32, 2, 2)
    assert rope(torch.randn(1, 32, 1, 4)).shape == (1, 32, 1, 4)


def test_rope_compiles_without_graph_breaks() -> None:
    rope, x = RotaryPositionalEmbeddings(8, max_seq_len=16), torch.randn(1, 4, 2, 8)
    positions = torch.tensor([[3, 4, 0, 1]])
    compiled = torch.compile(rope, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, input_pos=positions), rope(x, input_pos=positions))


@pytest.mark.parametrize("append", [True, False])
def test_vision_rope_rotates_by_column_and_row_and_leaves_the_cls_token(append: bool) -> None:
    torch.manual_seed(0)
    rope = VisionRotaryPositionalEmbeddings(patch_size=4, tile_size=8, dim=8, append_cls_token=append)
    x = torch.randn(1, 2 * 5, 1, 8)  # two tiles of 2 x 2 patches and a CLS token
    got = rope(x).view(2, 5, 8)
    tiles = x.view(2, 5, 8)
    cls, first = (4, 0) if append else (0, 1)
    torch.testing.assert_close(got[:, cls], tiles[:, cls])
    for row in range(2):
        for column in range(2):
            place = first + row * 2 + column
            for channel, position in enumerate([column + 1, column + 1, row + 1, row + 1]):
                angle = position / 10_000 ** (2 * (channel % 2) / 4)
                even, odd = tiles[:, place, 2 * channel], tiles[:, place, 2 * channel + 1]
                torch.testing.assert_close(
                    got[:, place, 2 * channel], even * math.cos(angle) - odd * math.sin(angle), atol=1e-6, rtol=1e-5
                )


def test_vision_rope_refuses_parts_of_tiles() -> None:
    rope = VisionRotaryPositionalEmbeddings(patch_size=4, tile_size=8, dim=8)
    with pytest.raises(ValueError, match="whole tiles of 5 tokens"):
        rope(torch.randn(1, 7, 1, 8))


def test_a_model_can_be_run_on_the_meta_device() -> None:
    with torch.device("meta"):
        rope = RotaryPositionalEmbeddings(8, max_seq_len=16)
        assert rope(torch.empty(2, 5, 3, 8)).shape == (2, 5, 3, 8)
        assert rope(torch.empty(2, 5, 3, 8), input_pos=torch.zeros(2, 5, dtype=torch.long)).is_meta
