"""Layers and decoder: what they return, caches, masks, and that they compile and checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _tiny_layers import DIM, MAX_LEN, VOCAB, attention, cross_layer, decoder, mlp, self_layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchtune.modules import (
    TransformerCrossAttentionLayer,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
    delete_kv_caches,
    disable_kv_cache,
    local_kv_cache,
    packed_block_causal_mask,
)
from torchtune.modules.common_utils import slice_str_to_array

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def test_layer_is_attention_and_feed_forward_with_residuals_and_scales() -> None:
    torch.manual_seed(0)
    layer = self_layer(sa_scale=nn.Linear(DIM, DIM), mlp_scale=nn.Linear(DIM, DIM))
    x = torch.randn(2, 5, DIM)
    normed = layer.sa_norm(x)
    h = x + layer.sa_scale(layer.attn(normed, normed))
    torch.testing.assert_close(layer(x), h + layer.mlp_scale(layer.mlp(layer.mlp_norm(h))))


def test_mask_mod_makes_the_mask_of_its_layer() -> None:
    calls = []

    def window(mask: Tensor | None, bsz: int, seq_len: int, device: torch.device) -> Tensor:
        calls.append((mask, bsz, seq_len))
        return torch.eye(seq_len, dtype=torch.bool).expand(bsz, -1, -1)

    torch.manual_seed(0)
    layer = self_layer(mask_mod=window)
    x = torch.randn(2, 5, DIM)
    # Who sees only itself gets its own value, wherever it stands.
    alone = torch.cat([layer(x[:, i : i + 1]) for i in range(5)], dim=1)
    torch.testing.assert_close(layer(x), alone, atol=1e-5, rtol=1e-5)
    assert calls[-1] == (None, 2, 5)


def test_logits_are_fp32_and_later_tokens_do_not_change_earlier_ones() -> None:
    model = decoder().bfloat16()
    logits = model(TOKENS)
    assert logits.shape == (2, 5, VOCAB) and logits.dtype == torch.float32
    changed = TOKENS.clone()
    changed[:, 3] = 7
    torch.testing.assert_close(model(changed)[:, :3], logits[:, :3])


def test_hidden_states_embeddings_chunks_and_skipped_output_agree_with_the_logits() -> None:
    model = decoder(output_hidden_states=[0, 2])
    first, last, logits = model(TOKENS)
    torch.testing.assert_close(first, model.tok_embeddings(TOKENS))
    torch.testing.assert_close(model.unembed(last), logits)
    torch.testing.assert_close(model(None, input_embeds=first)[-1], logits)
    model.output_hidden_states = []
    model.set_num_output_chunks(3)
    chunks = model(TOKENS)
    assert [chunk.shape[1] for chunk in chunks] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(chunks, dim=1), logits)
    model.skip_output_layer = True
    torch.testing.assert_close(model.output(model(TOKENS)), logits)


def test_one_layer_is_copied_num_layers_times() -> None:
    model = decoder(self_layer(), num_layers=3)  # type: ignore[arg-type]
    weights = [layer.attn.q_proj.weight for layer in model.layers]
    assert len(weights) == 3 and len({id(weight) for weight in weights}) == 3
    assert torch.equal(weights[0], weights[2])
    with pytest.raises(AssertionError, match="num_layers"):
        decoder(self_layer())  # type: ignore[arg-type]


def test_bad_inputs_are_clear_errors() -> None:
    model = decoder()
    with pytest.raises(ValueError, match=r"seq_len \(13\).*max_seq_len \(12\)"):
        model(torch.zeros(1, MAX_LEN + 1, dtype=torch.long))
    with pytest.raises(ValueError, match="both are None"):
        model(None)
    with pytest.raises(RuntimeError, match="Key value caches are not setup"):
        model.reset_caches()
    model.setup_caches(2, torch.float32)
    mask = torch.ones(2, 5, MAX_LEN, dtype=torch.bool)
    with pytest.raises(ValueError, match="masks must be provided"):
        model(TOKENS, input_pos=torch.arange(5))
    with pytest.raises(ValueError, match="input positions must be provided!"):
        model(TOKENS, mask=mask)
    with pytest.raises(ValueError, match="Use the `encoder_mask` arg to provide a causal mask"):
        model(TOKENS, mask=mask, input_pos=torch.arange(5), encoder_input=torch.zeros(2, 3, DIM))


def generate(model: TransformerDecoder, cache_len: int) -> Tensor:
    mask = torch.ones(cache_len, cache_len, dtype=torch.bool).tril()
    parts = [slice(0, 3), slice(3, 4), slice(4, 5)]
    return torch.cat(
        [model(TOKENS[:, p], mask=mask[p].expand(2, -1, -1), input_pos=torch.arange(5)[p].unsqueeze(0)) for p in parts],
        dim=1,
    )


def test_decoding_with_caches_equals_one_pass_and_caches_can_be_lent_disabled_and_deleted() -> None:
    model = decoder()
    want = model(TOKENS)
    with local_kv_cache(model, batch_size=2, device=torch.device("cpu"), dtype=torch.float32, decoder_max_seq_len=8):
        assert model.decoder_max_cache_seq_len == 8
        torch.testing.assert_close(generate(model, 8), want, atol=1e-5, rtol=1e-5)
        model.reset_caches()
        torch.testing.assert_close(generate(model, 8), want, atol=1e-5, rtol=1e-5)
        with disable_kv_cache(model):
            assert not model.caches_are_enabled()
            torch.testing.assert_close(model(TOKENS), want, atol=1e-5, rtol=1e-5)
        assert model.layers[0].attn.kv_cache.size == 5
        with (
            pytest.raises(ValueError, match="Model caches must be not setup"),
            local_kv_cache(model, batch_size=1, device=torch.device("cpu"), dtype=torch.float32),
        ):
            pass
    assert not model.caches_are_setup()
    torch.testing.assert_close(model(TOKENS), want)
    with pytest.raises(ValueError, match="You have tried to delete model caches"):
        delete_kv_caches(model)
    with pytest.raises(ValueError, match="Model caches must be setup"), disable_kv_cache(model):
        pass


def test_packed_sequences_give_the_logits_of_each_alone() -> None:
    model = decoder()
    packed = model(
        TOKENS[:1],
        mask=packed_block_causal_mask([torch.tensor([2, 3])]),
        input_pos=torch.tensor([[0, 1, 0, 1, 2]]),
    )
    torch.testing.assert_close(packed[:, :2], model(TOKENS[:1, :2]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[:, 2:], model(TOKENS[:1, 2:]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_tokens_that_see_no_encoder_output_pass_the_cross_attention_unchanged(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x, encoded = cross_layer(), torch.randn(2, 3, DIM), torch.randn(2, 4, DIM)
    sees = torch.tensor([[[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]]] * 2).bool()
    mask = sees if kind == torch.bool else torch.zeros(2, 3, 4).masked_fill(~sees, -torch.inf)
    out = layer(x, encoder_input=encoded, encoder_mask=mask)
    torch.testing.assert_close(out[:, 1], x[:, 1], atol=0, rtol=0)
    alone = layer(x[:, :1], encoder_input=encoded[:, :2])
    torch.testing.assert_close(out[:, :1], alone, atol=1e-5, rtol=1e-5)
    assert torch.equal(layer(x), x)


def test_cross_attention_takes_no_positions() -> None:
    with pytest.raises(AssertionError, match="without pos_embeddings"):
        TransformerCrossAttentionLayer(attention(), mlp())


def test_encoder_and_decoder_caches_have_their_own_lengths() -> None:
    torch.manual_seed(0)
    model = decoder([self_layer(), cross_layer()])
    encoded = torch.randn(2, 6, DIM)
    want = model(TOKENS, encoder_input=encoded)
    model.setup_caches(2, torch.float32, encoder_max_seq_len=7, decoder_max_seq_len=9)
    lengths = [layer.attn.kv_cache.k_cache.shape[2] for layer in model.layers]
    assert lengths == [9, 7]
    mask, sees = torch.ones(9, 9, dtype=torch.bool).tril(), torch.zeros(2, 5, 7, dtype=torch.bool)
    sees[..., :6] = True
    got = [
        model(
            TOKENS[:, s],
            mask=mask[s].expand(2, -1, -1),
            input_pos=torch.arange(5)[s].unsqueeze(0),
            encoder_input=encoded if s.start == 0 else None,
            encoder_mask=sees[:, s],
        )
        for s in (slice(0, 3), slice(3, 5))
    ]
    torch.testing.assert_close(torch.cat(got, dim=1), want, atol=1e-5, rtol=1e-5)


def backward(model: nn.Module, run: Any) -> dict[str, Tensor]:
    model.zero_grad()
    run(TOKENS).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("how", ["compiled", "checkpointed"])
def test_gradients_are_the_same_compiled_and_checkpointed(how: str) -> None:
    model = decoder()
    want = backward(model, model)
    if how == "compiled":
        run = torch.compile(model, backend="aot_eager", fullgraph=True)
    else:
        for layer in model.layers:
            forward = layer.forward
            layer.forward = lambda *a, f=forward, **k: checkpoint(f, *a, use_reentrant=False, **k)
        run = model
    got = backward(model, run)
    assert got.keys() == want.keys() == dict(model.named_parameters()).keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-6, rtol=1e-4, msg=name)


def test_model_made_on_meta_and_given_its_weights_works_at_once() -> None:
    model = decoder()
    with torch.device("meta"):
        twin = decoder()
    twin.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(twin(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("0", [0]),
        ("-1", [5]),
        ("1:3", [1, 2]),
        (":", [0, 1, 2, 3, 4, 5]),
        ("0,3:,1", [0, 1, 3, 4, 5]),
        ("::2", [0, 2, 4]),
    ],
)
def test_slices_written_as_text_select_indexes(text: str, chosen: list[int]) -> None:
    assert [i for i, selected in enumerate(slice_str_to_array(text, 6)) if selected] == chosen


@pytest.mark.parametrize("text", ["", "7", "a", "1:2:3:4"])
def test_text_that_is_no_slice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no index or slice of 6 items"):
        slice_str_to_array(text, 6)


def test_layers_without_norms_are_allowed() -> None:
    torch.manual_seed(0)
    layer = TransformerSelfAttentionLayer(attention(), mlp())
    x = torch.randn(1, 3, DIM)
    h = x + layer.attn(x, x)
    torch.testing.assert_close(layer(x), h + layer.mlp(h))
