"""Llama 4 against ``transformers``, on tiny random weights in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchtune.models.llama4 import llama4_decoder, llama4_vision_encoder
from torchtune.models.llama4._convert_weights import (
    llama4_hf_to_tune,
    llama4_meta_to_tune,
    llama4_tune_to_hf,
    llama4_tune_to_meta,
)
from torchtune.modules.model_fusion import EarlyFusionModel

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

PATCH = 60
# Experts everywhere with normed heads and stretched RoPE, or in every other layer without, as the two released sizes.
SCOUT: dict[str, Any] = {
    "use_qk_norm": True,
    "interleave_moe_layer_step": 1,
    "num_local_experts": 4,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
        "original_max_position_embeddings": 16,
    },
}
MAVERICK: dict[str, Any] = {
    "use_qk_norm": False,
    "interleave_moe_layer_step": 2,
    "num_local_experts": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
}
OURS: dict[str, dict[str, Any]] = {
    "scout": {"use_qk_norm": True, "num_experts": 4, "use_scaled_rope": True, "old_context_len": 16},
    "maverick": {"use_qk_norm": False, "num_experts": 8, "moe_every_n_layers": 2, "mlp_hidden_dim": 40},
}


def _theirs(size: dict[str, Any]) -> Any:
    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 24,
        "intermediate_size_mlp": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "attention_chunk_size": 8,
        "no_rope_layer_interval": 4,
        "num_experts_per_tok": 1,
        "pad_token_id": 0,
        **size,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
        "projector_input_dim": 24,
        "projector_output_dim": 24,
        "vision_output_dim": 24,
        "pixel_shuffle_ratio": 0.5,
    }
    config = transformers.Llama4Config(text_config=text, vision_config=vision, image_token_index=PATCH)
    # The hidden size of the adapter's input: four patches.
    config.vision_config.intermediate_size = 64
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.Llama4ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.2)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return model


@pytest.fixture(scope="module", params=["scout", "maverick"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, EarlyFusionModel]:
    theirs = _theirs(SCOUT if request.param == "scout" else MAVERICK)
    decoder = llama4_decoder(
        vocab_size=64,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        embed_dim=32,
        hidden_dim=24,
        max_seq_len=64,
        skip_rope_interval=4,
        attention_chunk_size=8,
        **OURS[request.param],
    )
    encoder = llama4_vision_encoder(
        patch_size=4,
        num_heads=2,
        clip_embed_dim=16,
        clip_num_layers=2,
        projection_embed_dim=24,
        decoder_embed_dim=32,
        tile_size=16,
    )
    ours = EarlyFusionModel(decoder=decoder, encoders={"vision": encoder}, encoder_tokens={"vision": PATCH}).eval()
    ours.load_state_dict(llama4_hf_to_tune(dict(theirs.state_dict())))
    return theirs, ours


def test_text_logits_equal_transformers(pair: Any) -> None:
    theirs, ours = pair
    tokens = torch.randint(1, 59, (2, 21))
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(ours(tokens), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


def test_logits_with_images_equal_transformers(pair: Any) -> None:
    theirs, ours = pair
    images = torch.randn(2, 3, 16, 16)
    tokens = torch.randint(1, 59, (2, 13))
    tokens[:, 3:7] = PATCH  # a tile of 16 patches is 4 tokens
    with torch.no_grad():
        expected = theirs(input_ids=tokens, pixel_values=images).logits
        found = ours(tokens, encoder_input={"vision": {"images": images[:, None]}})
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_chunks_hold_with_a_kv_cache(pair: Any) -> None:
    _, ours = pair
    tokens, total = torch.randint(1, 59, (1, 20)), 20
    causal = torch.tril(torch.ones(total, total, dtype=torch.bool))
    with torch.no_grad():
        expected = ours(tokens)
        ours.setup_caches(1, torch.float32, decoder_max_seq_len=total)
        steps = [slice(0, 6)] + [slice(i, i + 1) for i in range(6, total)]
        found = [ours(tokens[:, s], mask=causal[None, s], input_pos=torch.arange(total)[None, s]) for s in steps]
    for layer in ours.decoder.layers:
        layer.attn.kv_cache = None
        layer.attn.cache_enabled = False
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-5, rtol=1e-5)


def test_hf_and_meta_round_trips_are_exact(pair: Any) -> None:
    theirs, model = pair
    ours = model.state_dict()
    back = llama4_tune_to_hf(ours)
    for key, value in theirs.state_dict().items():
        name = key.removeprefix("model.") if key.startswith(("model.vision", "model.multi")) else key
        assert torch.equal(back[name], value), key
    again = llama4_hf_to_tune(back)
    assert set(again) == set(ours) and all(torch.equal(again[key], ours[key]) for key in ours)
    if any("mlp.w1" in key for key in ours if key.startswith("decoder.")):
        return  # Meta has no names for dense layers in the published checkpoints that we know
    meta = llama4_tune_to_meta(ours)
    assert meta["layers.0.feed_forward.experts.moe_w_in_eD_F"].shape == (4 * 32, 24)
    assert meta["layers.0.feed_forward.router_DE"].shape == (32, 4)
    again = llama4_meta_to_tune({**meta, "rope.freqs": torch.ones(1)})
    assert set(again) == set(ours) and all(torch.equal(again[key], ours[key]) for key in ours)
