"""Attention against a reference in plain operations, with and without KV caches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask

from torchtune.modules import (
    KVCache,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositionalEmbeddings,
    create_block_causal_mask,
    packed_block_causal_mask,
)
from torchtune.modules.attention_utils import (
    _get_document_ids_from_seq_lens,
    _sdpa_or_flex_attention,
    causal_mask_flex,
    kv_offset_mask_flex,
)

D, HEADS, SIZE = 12, 4, 6


def attention(kv_heads: int = 2, **options: Any) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(
        embed_dim=D,
        num_heads=HEADS,
        num_kv_heads=kv_heads,
        head_dim=SIZE,
        q_proj=nn.Linear(D, HEADS * SIZE),
        k_proj=nn.Linear(D, kv_heads * SIZE),
        v_proj=nn.Linear(D, kv_heads * SIZE),
        output_proj=nn.Linear(HEADS * SIZE, D, bias=False),
        max_seq_len=16,
        **options,
    )


def reference(
    attn: MultiHeadAttention,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    input_pos: Tensor | None = None,
    norm_first: bool = False,
    scale: float = 1 / math.sqrt(SIZE),
    softcap: float | None = None,
) -> Tensor:
    def split(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, SIZE))

    def place(heads: Tensor, norm: nn.Module | None) -> Tensor:
        heads = norm(heads) if norm is not None and norm_first else heads
        heads = attn.pos_embeddings(heads, input_pos=input_pos) if attn.pos_embeddings is not None else heads
        return norm(heads) if norm is not None and not norm_first else heads

    q, k = place(split(attn.q_proj(x)), attn.q_norm), place(split(attn.k_proj(y)), attn.k_norm)
    v = split(attn.v_proj(y))
    heads = []
    for head in range(HEADS):
        kv = head // (HEADS // attn.num_kv_heads)
        scores = q[:, :, head] @ k[:, :, kv].transpose(1, 2) * scale
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        heads.append(scores.softmax(-1) @ v[:, :, kv])
    return attn.output_proj(torch.cat(heads, dim=-1))


CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 5, 5)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_the_plain_formula(kv_heads: int, masked: bool) -> None:
    attn = attention(kv_heads, pos_embeddings=RotaryPositionalEmbeddings(SIZE, max_seq_len=16))
    x = torch.randn(2, 5, D)
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])
    mask = create_block_causal_mask([torch.tensor([3, 2]), torch.tensor([5])]) if masked else None
    got = attn(x, x, mask=mask, input_pos=positions)
    want = reference(attn, x, x, mask if masked else CAUSAL, positions)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_cross_attention_sees_everything() -> None:
    attn = attention(is_causal=False)
    x, y = torch.randn(2, 3, D), torch.randn(2, 7, D)
    torch.testing.assert_close(attn(x, y), reference(attn, x, y, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm_before_rope", [False, True])
def test_norms_of_queries_and_keys_are_applied_on_the_chosen_side_of_rope(norm_before_rope: bool) -> None:
    norms = [RMSNorm(SIZE), RMSNorm(SIZE)]
    for norm in norms:
        nn.init.uniform_(norm.scale)
    rope = RotaryPositionalEmbeddings(SIZE, max_seq_len=16)
    attn = attention(q_norm=norms[0], k_norm=norms[1], pos_embeddings=rope, norm_before_rope=norm_before_rope)
    x = torch.randn(2, 5, D)
    want = reference(attn, x, x, CAUSAL, norm_first=norm_before_rope)
    torch.testing.assert_close(attn(x, x), want, atol=1e-5, rtol=1e-5)
    other = reference(attn, x, x, CAUSAL, norm_first=not norm_before_rope)
    assert not torch.allclose(attn(x, x), other, atol=1e-4)


@pytest.mark.parametrize("mask", [None, CAUSAL])
def test_soft_cap_and_scale_bend_the_scores(mask: Tensor | None) -> None:
    attn = attention(softcap=1.5, softmax_scale=0.9)
    x = torch.randn(2, 5, D) * 3
    want = reference(attn, x, x, CAUSAL, scale=0.9, softcap=1.5)
    torch.testing.assert_close(attn(x, x, mask=mask), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_decoding_with_a_cache_equals_one_pass(kv_heads: int) -> None:
    attn = attention(kv_heads, pos_embeddings=RotaryPositionalEmbeddings(SIZE, max_seq_len=16))
    x = torch.randn(2, 7, D)
    want = attn(x, x)
    attn.setup_cache(batch_size=3, dtype=torch.float32, max_seq_len=9)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    steps = [slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 7)]
    got = [
        attn(x[:, s], x[:, s], mask=mask[s].expand(2, -1, -1), input_pos=torch.arange(7)[s].expand(2, -1))
        for s in steps
    ]
    torch.testing.assert_close(torch.cat(got, dim=1), want, atol=1e-5, rtol=1e-5)
    attn.reset_cache()
    again = attn(x[:, :4], x[:, :4], mask=mask[:4].expand(2, -1, -1), input_pos=torch.arange(4))
    torch.testing.assert_close(again, want[:, :4], atol=1e-5, rtol=1e-5)


def test_attention_reads_only_the_filled_part_of_the_cache() -> None:
    attn = attention()
    attn.setup_cache(batch_size=1, dtype=torch.float32, max_seq_len=16)
    seen = []

    def spy(q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        seen.append((k.shape[2], v.shape[2], kwargs["mask"].shape[-1]))
        return q

    attn._attention_call = spy
    x, mask = torch.randn(1, 3, D), torch.ones(1, 3, 16, dtype=torch.bool)
    attn(x, x, mask=mask)
    attn(x[:, :1], x[:, :1], mask=mask[:, :1])
    assert seen == [(3, 3, 3), (4, 4, 4)]


def test_encoder_output_is_remembered_by_the_cache() -> None:
    attn = attention(is_causal=False)
    x, y = torch.randn(2, 3, D), torch.randn(2, 7, D)
    want = attn(x, y)
    attn.setup_cache(batch_size=2, dtype=torch.float32, max_seq_len=10)
    torch.testing.assert_close(attn(x, y), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attn(x, None), want, atol=1e-5, rtol=1e-5)


def test_cache_is_made_on_the_device_of_the_weights() -> None:
    attn = attention().to("meta")
    attn.setup_cache(1, torch.bfloat16, 8)
    assert attn.kv_cache is not None and attn.kv_cache.k_cache.is_meta
    assert attn.kv_cache.k_cache.dtype == torch.bfloat16


def test_compiled_decoding_equals_eager_decoding() -> None:
    torch._dynamo.reset()
    attn = attention(pos_embeddings=RotaryPositionalEmbeddings(SIZE, max_seq_len=16))
    attn.setup_cache(batch_size=1, dtype=torch.float32, max_seq_len=8)
    x, mask = torch.randn(1, 4, D), torch.ones(8, 8, dtype=torch.bool).tril()

    def decode(call: Any) -> list[Tensor]:
        attn.reset_cache()
        return [
            call(x[:, i : i + 1], x[:, i : i + 1], mask=mask[i : i + 1].unsqueeze(0), input_pos=torch.tensor([[i]]))
            for i in range(4)
        ]

    with torch.no_grad():
        want = decode(attn)
        got = decode(torch.compile(attn, backend="aot_eager"))
        assert attn.kv_cache is not None and attn.kv_cache.size == 4
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_dropout_is_for_training_only() -> None:
    attn = attention(attn_dropout=0.5)
    x = torch.randn(2, 5, D)
    assert not torch.equal(attn(x, x), attn(x, x))
    attn.eval()
    assert torch.equal(attn(x, x), attn(x, x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_heads": 3}, "num_heads .* divisible by num_kv_heads"),
        ({"attn_dropout": 1.5}, "attn_dropout must be between"),
        ({"q_norm": RMSNorm(SIZE)}, "q_norm and k_norm"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(**options)


def test_missing_keys_and_missing_cache_are_clear_errors() -> None:
    attn = attention()
    with pytest.raises(ValueError, match="Must provide y"):
        attn(torch.randn(1, 2, D))
    with pytest.raises(RuntimeError, match="Key value caches are not setup"):
        attn.reset_cache()


def test_kv_cache_keeps_what_it_was_given_and_counts() -> None:
    cache = KVCache(batch_size=2, max_seq_len=4, num_kv_heads=1, head_dim=2, dtype=torch.float32)
    k = torch.randn(2, 1, 3, 2)
    keys, values = cache.update(k, k + 1)
    assert cache.size == 3 and int(cache.cache_pos[0]) == 3
    torch.testing.assert_close(keys[:, :, :3], k)
    assert not keys[:, :, 3:].any()
    small, _ = cache.update(k[:1, :, :1], k[:1, :, :1])
    assert small.shape[0] == 1 and cache.size == 4
    with pytest.raises(AssertionError, match="room for 4 tokens and holds 4"):
        cache.update(k[:, :, :1], k[:, :, :1])
    with pytest.raises(ValueError, match="batch of 2.*batch of 3"):
        cache.update(torch.zeros(3, 1, 1, 2), torch.zeros(3, 1, 1, 2))
    cache.reset()
    assert cache.size == 0 and not cache.k_cache.any() and int(cache.cache_pos[0]) == 0
    assert not cache.state_dict()


def test_packed_masks_let_tokens_see_their_own_sequence_only() -> None:
    lengths = [torch.tensor([2, 1, 3]), torch.tensor([6])]
    mask = packed_block_causal_mask(lengths)
    ids = _get_document_ids_from_seq_lens(lengths)
    assert ids.tolist() == [[0, 0, 1, 2, 2, 2], [0] * 6]
    for b in range(2):
        for q in range(6):
            for k in range(6):
                assert bool(mask[b, q, k]) == bool(ids[b, q] == ids[b, k] and k <= q)


def test_flex_masks_give_the_same_attention_as_dense_ones() -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 8, 16), torch.randn(1, 2, 8, 16), torch.randn(1, 2, 8, 16)
    call = _sdpa_or_flex_attention()
    flex = create_block_mask(causal_mask_flex, 1, None, 8, 8, device="cpu")
    want = call(q, k, v, mask=None, dropout_p=0.0, is_causal=True)
    torch.testing.assert_close(call(q, k, v, mask=flex, dropout_p=0.0, is_causal=False), want, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="doesn't support dropout"):
        call(q, k, v, mask=flex, dropout_p=0.1, is_causal=False)
    assert bool(kv_offset_mask_flex(0, 0, torch.tensor(1), torch.tensor(3), 2))  # type: ignore[arg-type]
    assert not bool(kv_offset_mask_flex(0, 0, torch.tensor(0), torch.tensor(3), 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["causal", "bool", "float", "blocks"])
def test_a_sink_takes_its_share_of_the_softmax(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 16, 16, generator=generator)
    k, v = torch.randn(2, 2, 2, 16, 16, generator=generator)
    sinks = torch.randn(4, generator=generator)
    seen = torch.ones(16, 16, dtype=torch.bool).tril()
    scores = (q @ k.repeat_interleave(2, 1).transpose(-2, -1) / 4).masked_fill(~seen, float("-inf"))
    shares = torch.cat([scores, sinks.view(1, 4, 1, 1).expand(2, 4, 16, 1)], dim=-1).softmax(dim=-1)
    expected = shares[..., :-1] @ v.repeat_interleave(2, 1)
    masks = {
        "causal": None,
        "bool": seen.expand(2, -1, -1),
        "float": torch.zeros(2, 16, 16).masked_fill(~seen, float("-inf")),
        "blocks": create_block_mask(causal_mask_flex, 2, None, 16, 16, device="cpu"),
    }
    found = _sdpa_or_flex_attention()(q, k, v, mask=masks[kind], is_causal=kind == "causal", sinks=sinks)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
