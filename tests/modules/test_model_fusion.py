"""Fusion layers, deep and early fusion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _tiny_layers import DIM, MAX_LEN, cross_layer, decoder, self_layer
from torch import Tensor, nn

from torchtune.modules.model_fusion import (
    DeepFusionModel,
    EarlyFusionModel,
    FusionEmbedding,
    FusionLayer,
    get_fusion_params,
    register_fusion_module,
)

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def fusion_decoder(fusion_first: bool = True) -> Any:
    torch.manual_seed(0)
    return decoder([self_layer(), FusionLayer(self_layer(), cross_layer(), fusion_first)])


@pytest.mark.parametrize("fusion_first", [True, False])
def test_fusion_layer_applies_both_layers_in_order(fusion_first: bool) -> None:
    torch.manual_seed(0)
    own, cross = self_layer(), cross_layer()
    layer, x, encoded = FusionLayer(own, cross, fusion_first), torch.randn(2, 3, DIM), torch.randn(2, 4, DIM)
    want = own(cross(x, encoder_input=encoded)) if fusion_first else cross(own(x), encoder_input=encoded)
    torch.testing.assert_close(layer(x, encoder_input=encoded), want)


def test_decoder_checkpoint_loads_into_a_decoder_with_fusion_layers_and_back() -> None:
    plain, fused = decoder([self_layer(), self_layer()], seed=1), fusion_decoder()
    missing = fused.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("layers.1.fusion_layer.") for key in missing.missing_keys)
    torch.testing.assert_close(fused(TOKENS), plain(TOKENS))
    state = fused.state_dict()
    assert [key for key in state if "fusion_layer" not in key] == list(plain.state_dict())
    twin = fusion_decoder()
    twin.load_state_dict(state)
    encoded = torch.randn(2, 3, DIM)
    torch.testing.assert_close(twin(TOKENS, encoder_input=encoded), fused(TOKENS, encoder_input=encoded))


def test_fusion_embedding_continues_the_vocabulary_and_keeps_the_checkpoint_key() -> None:
    torch.manual_seed(0)
    embedding, table = FusionEmbedding(10, 3, DIM), nn.Embedding(13, DIM)
    embedding.load_state_dict({"weight": table.weight[:10], "fusion_embedding.weight": table.weight[10:]})
    tokens = torch.tensor([[0, 12, 9], [10, 11, 3]])
    torch.testing.assert_close(embedding(tokens), table(tokens))
    assert sorted(embedding.state_dict()) == ["fusion_embedding.weight", "weight"]
    assert list(get_fusion_params(nn.Sequential(embedding))) == ["0.fusion_embedding.weight"]
    embedding(tokens).sum().backward()
    assert int((embedding.fusion_embedding.weight.grad != 0).any(1).sum()) == 3
    assert (embedding.embedding.weight.grad[1:3] == 0).all()


def test_any_module_can_be_registered_as_a_fusion_module() -> None:
    head = nn.Sequential(nn.Linear(2, 2))
    register_fusion_module(head)
    assert sorted(get_fusion_params(nn.ModuleDict({"head": head}))) == ["head.0.bias", "head.0.weight"]
    head.fusion_params = lambda: ["gone"]  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="'gone' is not in"):
        get_fusion_params(nn.ModuleDict({"head": head}))


@pytest.mark.parametrize("chosen", [{"decoder"}, {"encoder"}, {"fusion"}, {"decoder", "fusion"}, set()])
def test_deep_fusion_trains_the_chosen_parts(chosen: set[str]) -> None:
    model = DeepFusionModel(
        fusion_decoder(),
        nn.Linear(4, DIM),
        decoder_trainable="decoder" in chosen,
        encoder_trainable="encoder" in chosen,
        fusion_trainable="fusion" in chosen,
    )

    def part(name: str) -> str:
        return "fusion" if "fusion_layer" in name else name.split(".")[0]

    trained = {part(name) for name, p in model.named_parameters() if p.requires_grad}
    assert trained == chosen
    assert all(p.requires_grad == (part(name) in chosen) for name, p in model.named_parameters())


def test_deep_fusion_feeds_the_encoder_s_output_to_the_decoder_and_remembers_it() -> None:
    decode, encoder = fusion_decoder(), nn.Linear(4, DIM)
    model = DeepFusionModel(decode, encoder)
    images = torch.randn(2, 6, 4)
    want = decode(TOKENS, encoder_input=encoder(images))
    got = model(TOKENS, encoder_input={"input": images})
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(model(TOKENS), decode(TOKENS))
    model.setup_caches(2, torch.float32, encoder_max_seq_len=6, decoder_max_seq_len=8)
    assert model.caches_are_setup() and model.caches_are_enabled() and model.decoder_max_cache_seq_len == 8
    assert model.encoder_max_cache_seq_len == 6 and model.max_seq_len == MAX_LEN
    mask, sees = torch.ones(8, 8, dtype=torch.bool).tril(), torch.ones(2, 5, 6, dtype=torch.bool)
    steps = [
        model(
            TOKENS[:, s],
            mask=mask[s].expand(2, -1, -1),
            encoder_input={"input": images} if s.start == 0 else None,
            encoder_mask=sees[:, s],
            input_pos=torch.arange(5)[s].unsqueeze(0),
        )
        for s in (slice(0, 4), slice(4, 5))
    ]
    torch.testing.assert_close(torch.cat(steps, 1), want, atol=1e-5, rtol=1e-5)
    model.reset_caches()
    assert decode.layers[1].fusion_layer.attn.kv_cache.size == 0


def test_fusion_models_hand_their_output_layer_to_losses() -> None:
    decode = fusion_decoder()
    for model in (DeepFusionModel(decode, nn.Linear(4, DIM)), early(decode)):
        assert model.output is decode.output
        model.skip_output_layer = True
        assert decode.skip_output_layer and model(TOKENS).shape[-1] == DIM
        model.skip_output_layer = False
        model.set_num_output_chunks(2)
        assert len(model(TOKENS)) == 2
        model.set_num_output_chunks(0)


class Encoder(nn.Module):
    """Gives three vectors per image."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, DIM)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images)


def early(decode: Any = None, **options: Any) -> EarlyFusionModel:
    return EarlyFusionModel(
        decode or decoder(), {"image": Encoder(), "sound": Encoder()}, {"image": 90, "sound": 91}, **options
    )


def test_early_fusion_replaces_each_special_token_by_the_next_output_of_its_own_sample() -> None:
    torch.manual_seed(0)
    model = early()
    images, sounds = torch.randn(2, 3, 2), torch.randn(2, 1, 2)
    tokens = torch.tensor([[3, 90, 90, 90, 5], [90, 2, 91, 5, 3]])
    embeds = model.decoder.tok_embeddings(tokens.clamp(max=9)).clone()
    encoded, heard = model.encoders["image"](images), model.encoders["sound"](sounds)
    embeds[0, 1:4], embeds[1, 0], embeds[1, 2] = encoded[0], encoded[1, 0], heard[1, 0]
    got = model(tokens, encoder_input={"image": {"images": images}, "sound": {"images": sounds}})
    torch.testing.assert_close(got, model.decoder(None, input_embeds=embeds))
    torch.testing.assert_close(model(TOKENS), model.decoder(TOKENS))


def test_early_fusion_refuses_what_does_not_fit() -> None:
    model = early()
    with pytest.raises(ValueError, match="4 tokens for outputs of encoder 'image', which gave 3"):
        model(torch.tensor([[90, 90, 90, 90]]), encoder_input={"image": {"images": torch.randn(1, 3, 2)}})
    with pytest.raises(ValueError, match=r"encoder_input has \['video'\]"):
        model(TOKENS, encoder_input={"video": {}})
    with pytest.raises(ValueError, match="must have the same names"):
        EarlyFusionModel(decoder(), {"image": Encoder()}, {"images": 90})


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({}, set()),
        ({"decoder_trainable": True}, {"decoder"}),
        ({"encoders_trainable": True}, {"encoders.image", "encoders.sound"}),
        ({"encoders_trainable": {"image": False, "sound": True}}, {"encoders.sound"}),
    ],
)
def test_early_fusion_trains_the_chosen_parts(options: dict[str, Any], trained: set[str]) -> None:
    model = early(**options)
    parts = {
        ".".join(name.split(".")[: 1 if name.startswith("decoder") else 2])
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert parts == trained
