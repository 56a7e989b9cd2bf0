"""Sliding windows, and the rotary embeddings of the families."""

from __future__ import annotations

import math

import torch

from torchtune.models._masks import WindowMask, windows
from torchtune.models.llama3_1 import Llama3ScaledRoPE
from torchtune.models.phi3 import Phi3RotaryPositionalEmbeddings
from torchtune.models.qwen2 import Qwen2RotaryPositionalEmbeddings
from torchtune.modules import RotaryPositionalEmbeddings


def _expected(length: int, size: int) -> torch.Tensor:
    q, k = torch.arange(length)[:, None], torch.arange(length)[None]
    return (k <= q) & (k > q - size)


def test_a_window_holds_the_token_and_those_before_it() -> None:
    mask = WindowMask(3)(mask=None, bsz=2, seq_len=6)
    assert torch.equal(mask[1], _expected(6, 3))
    assert WindowMask(6)(mask=None, bsz=2, seq_len=6) is None


def test_a_window_narrows_packed_and_additive_masks() -> None:
    packed = torch.block_diag(torch.ones(4, 4), torch.ones(3, 3)).tril().bool()[None]
    assert torch.equal(WindowMask(2)(mask=packed, bsz=1, seq_len=7), packed & _expected(7, 2))
    additive = torch.zeros(1, 7, 7).masked_fill(~packed, float("-inf"))
    narrowed = WindowMask(2)(mask=additive, bsz=1, seq_len=7)
    assert torch.equal(narrowed == 0, packed & _expected(7, 2))


def test_a_mask_changed_in_place_is_narrowed_anew() -> None:
    window, mask = WindowMask(2), torch.ones(1, 5, 5, dtype=torch.bool).tril()
    first = window(mask=mask, bsz=1, seq_len=5)
    assert window(mask=mask, bsz=1, seq_len=5) is first
    mask[:, :, 3] = False
    assert not window(mask=mask, bsz=1, seq_len=5)[0, 3, 3]


def test_a_window_counts_from_the_query_s_place_in_the_cache() -> None:
    causal = torch.tril(torch.ones(10, 10, dtype=torch.bool))
    step = WindowMask(4)(mask=causal[None, 6:7], bsz=1, seq_len=1)
    assert step[0, 0].nonzero().flatten().tolist() == [3, 4, 5, 6]


def test_a_window_narrows_block_masks() -> None:
    from torch.nn.attention.flex_attention import create_block_mask, create_mask

    block = create_block_mask(lambda b, h, q, k: q >= k, 1, None, 256, 256, device="cpu")
    narrow = WindowMask(9)
    found = create_mask(narrow(mask=block, bsz=1, seq_len=256).mask_mod, 1, 1, 256, 256, device="cpu")
    assert torch.equal(found[0, 0], _expected(256, 9))
    assert narrow(mask=block) is narrow(mask=block)


def test_windows_in_every_other_layer_start_with_the_first() -> None:
    layers = windows(4, every=2)
    assert [layers(index) is not None for index in range(4)] == [True, False, True, False]
    assert windows(None) is None


def test_halves_are_pairs_in_another_order() -> None:
    x = torch.randn(2, 6, 3, 16)
    order = torch.arange(16).view(8, 2).T.flatten()
    halves = Phi3RotaryPositionalEmbeddings(16, 32)(x[..., order], torch.arange(6) + 3)
    pairs = RotaryPositionalEmbeddings(16, 32)(x, input_pos=torch.arange(6) + 3)
    torch.testing.assert_close(halves, pairs[..., order])
    assert Qwen2RotaryPositionalEmbeddings(16).base == 1_000_000.0


def test_scaling_stretches_long_waves_only() -> None:
    rope, plain = Llama3ScaledRoPE(128, 16, 500_000), RotaryPositionalEmbeddings(128, 16, 500_000)
    waves, ratio = 2 * math.pi / plain.theta, plain.theta / rope.theta
    torch.testing.assert_close(ratio[waves > 8192], torch.full_like(ratio[waves > 8192], 8.0))
    torch.testing.assert_close(ratio[waves < 2048], torch.ones_like(ratio[waves < 2048]))
    between = ratio[(waves > 2048) & (waves < 8192)]
    assert between.numel() and ((between > 1) & (between < 8)).all()


def test_caches_build_themselves_after_meta() -> None:
    with torch.device("meta"):
        rope = Llama3ScaledRoPE(16, 32, 500_000)
    x = torch.randn(1, 8, 2, 16)
    torch.testing.assert_close(rope(x), Llama3ScaledRoPE(16, 32, 500_000)(x))
