"""Builders of the models with images: which parts are adapted, which are trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchtune.models.clip import clip_vision_encoder
from torchtune.models.llama3_2_vision import lora_llama3_2_vision_11b
from torchtune.models.llama4 import (
    llama4_decoder,
    llama4_maverick_17b_128e,
    lora_llama4_decoder,
    lora_llama4_scout_17b_16e,
    lora_llama4_vision_encoder,
)

ENCODER: dict[str, Any] = {
    "patch_size": 4,
    "num_heads": 2,
    "clip_embed_dim": 16,
    "clip_num_layers": 2,
    "projection_embed_dim": 24,
    "decoder_embed_dim": 32,
    "tile_size": 16,
}
DECODER: dict[str, Any] = {
    "vocab_size": 64,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 32,
    "hidden_dim": 24,
    "max_seq_len": 32,
    "num_experts": 4,
    "moe_every_n_layers": 2,
    "mlp_hidden_dim": 40,
}


def _adapted(model: torch.nn.Module) -> set[str]:
    return {name.split(".lora")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_" in name}


def test_the_image_encoder_of_llama4_takes_adapters() -> None:
    encoder = lora_llama4_vision_encoder(True, True, ["q_proj"], True, True, **ENCODER)
    assert _adapted(encoder) == {"q_proj", "w1", "w2", "0", "2", "4"}
    out = encoder(torch.randn(2, 3, 3, 16, 16))
    assert out.shape == (6, 4, 32)
    out.sum().backward()


def test_scout_takes_adapters_in_every_part() -> None:
    with torch.device("meta"):
        model = lora_llama4_scout_17b_16e(["q_proj"], encoder_trainable="lora", apply_lora_to_mlp=True)
    assert any("encoders.vision.clip" in name and "lora" in name for name, _ in model.named_parameters())
    assert model.decoder.layers[0].mlp.experts.lora_gate_a.shape == (16, 5120, 8)


@pytest.mark.parametrize("build", [lora_llama4_scout_17b_16e, lora_llama3_2_vision_11b])
def test_frozen_parts_are_frozen_and_unknown_words_refused(build: Any) -> None:
    with torch.device("meta"):
        model = build(["q_proj"], encoder_trainable="frozen")
    clip = [p.requires_grad for name, p in model.named_parameters() if ".clip." in name]
    assert clip and not any(clip)
    with pytest.raises(ValueError, match="encoder_trainable is 'on'"):
        build(["q_proj"], encoder_trainable="on")


def test_dense_layers_of_llama4_have_their_own_size_with_and_without_adapters() -> None:
    plain = llama4_decoder(**DECODER)
    adapted = lora_llama4_decoder(True, ["q_proj"], True, **DECODER)
    for model in (plain, adapted):
        assert model.layers[0].mlp.w1.weight.shape == (40, 32)
        assert model.layers[1].mlp.experts.gate_proj.shape == (4, 32, 24)
    missing, unexpected = adapted.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all("lora" in key for key in missing)
    tokens = torch.randint(0, 64, (1, 7))
    torch.testing.assert_close(adapted(tokens), plain(tokens))
    with pytest.raises(ValueError, match="mlp_hidden_dim"):
        llama4_decoder(**{**DECODER, "mlp_hidden_dim": None})


def test_ten_million_positions_need_no_table() -> None:
    with torch.device("meta"):
        model = llama4_maverick_17b_128e()
    rope = model.decoder.layers[0].attn.pos_embeddings
    assert rope.max_seq_len == 1_048_576 and rope.cache.numel() == 0
    assert model.decoder.layers[3].attn.pos_embeddings is None


def test_images_of_several_tiles_need_their_layout() -> None:
    encoder = clip_vision_encoder(16, 4, 16, 2, 2, out_indices=[0])
    images = torch.randn(1, 2, 4, 3, 16, 16)
    tokens, hidden = encoder(images, torch.tensor([[[2, 2], [1, 3]]]))
    assert tokens.shape == hidden[0].shape == (1, 2, 4, 17, 16)
    with pytest.raises(ValueError, match="aspect_ratio"):
        encoder(images)
