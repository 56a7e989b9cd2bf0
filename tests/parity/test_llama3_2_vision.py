"""Llama 3.2 Vision against ``transformers``, on tiny random weights in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchtune.models.llama3_2_vision import llama3_2_vision_decoder, llama3_2_vision_encoder
from torchtune.models.llama3_2_vision._convert_weights import (
    ASPECT_RATIOS,
    llama3_vision_hf_to_tune,
    llama3_vision_meta_to_tune,
    llama3_vision_tune_to_hf,
    llama3_vision_tune_to_meta,
)
from torchtune.modules.model_fusion import DeepFusionModel

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "cross_attention_layers": [1, 4],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "attention_heads": 4,
    "num_hidden_layers": 3,
    "num_global_layers": 2,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 4,
    "max_num_tiles": 4,
    "vision_output_dim": 48,
    # transformers 5 numbers hidden states by the layer they come out of, Meta and we by the one they go into.
    "intermediate_layers_indices": [0, 1],
}
SIZES: dict[str, Any] = {
    "num_heads": 4,
    "num_kv_heads": 2,
    "dim": 32,
    "vocab_size": 64,
    "cross_attention_layers": [1, 4],
    "encoder_dim": 16,
    "num_tiles": 4,
}


@pytest.fixture(scope="module")
def theirs() -> Any:
    config = transformers.MllamaConfig(text_config=TEXT, vision_config=VISION)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.MllamaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.15)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    # The rows of an aspect ratio are those of one grid of places, as in the released checkpoints.
    vision = model.model.vision_model
    for embedding, tokens in (
        (vision.pre_tile_positional_embedding.embedding, 1),
        (vision.post_tile_positional_embedding.embedding, 1),
        (vision.gated_positional_embedding.tile_embedding, 17),
    ):
        grid = torch.randn(4, 4, tokens, 16) * 0.3
        with torch.no_grad():
            embedding.weight.zero_()
            for index, (height, width) in enumerate(ASPECT_RATIOS, start=1):
                row = torch.zeros(4, tokens, 16)
                row[: height * width] = grid[:height, :width].flatten(0, 1)
                embedding.weight[index] = row.flatten()
    return model


def _ours(theirs: Any) -> DeepFusionModel:
    encoder = llama3_2_vision_encoder(
        patch_size=4,
        num_heads=4,
        clip_embed_dim=16,
        clip_num_layers=3,
        clip_hidden_states=[1, 2],
        num_layers_projection=2,
        decoder_embed_dim=32,
        tile_size=16,
    )
    decoder = llama3_2_vision_decoder(
        vocab_size=64,
        num_layers=4,
        fusion_interval=2,
        num_special_tokens=8,
        num_heads=4,
        num_kv_heads=2,
        embed_dim=32,
        max_seq_len=64,
        encoder_max_seq_len=4 * 17,
        intermediate_dim=48,
    )
    model = DeepFusionModel(decoder=decoder, encoder=encoder).eval()
    model.load_state_dict(llama3_vision_hf_to_tune(dict(theirs.state_dict()), **SIZES))
    return model


def _inputs(ratios: list[tuple[int, int]], first: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs whose tokens see their image from the token ``first`` on."""
    batch, length = len(ratios), 9
    tokens = torch.randint(0, 64, (batch, length))
    tokens[:, 2] = 64 + 3  # one of the tokens that were added
    images = torch.zeros(batch, 1, 4, 3, 16, 16)
    tile_mask = torch.zeros(batch, 1, 4, dtype=torch.long)
    cross = torch.zeros(batch, length, 1, 4, dtype=torch.long)
    for row, (height, width) in enumerate(ratios):
        images[row, 0, : height * width] = torch.randn(height * width, 3, 16, 16)
        tile_mask[row, 0, : height * width] = 1
        cross[row, first:, 0, : height * width] = 1
    for_hf = {
        "input_ids": tokens,
        "pixel_values": images,
        "aspect_ratio_ids": torch.tensor([[1 + ASPECT_RATIOS.index(ratio)] for ratio in ratios]),
        "aspect_ratio_mask": tile_mask,
        "cross_attention_mask": cross,
    }
    most = max(height * width for height, width in ratios)
    for_us = {
        "tokens": tokens,
        "encoder_input": {"images": images[:, :, :most], "aspect_ratio": torch.tensor(ratios)[:, None]},
        "encoder_mask": cross[:, :, 0, :most].repeat_interleave(17, dim=-1).bool(),
    }
    return for_hf, for_us


@pytest.mark.parametrize("ratios", [[(1, 1)], [(2, 2), (1, 3)], [(4, 1), (1, 2)]], ids=str)
def test_logits_equal_transformers(theirs: Any, ratios: list[tuple[int, int]]) -> None:
    torch.manual_seed(1)
    # Tokens that see no image: Meta drops what attention gives them, as we do; transformers averages over all images.
    for_hf, for_us = _inputs(ratios, first=0)
    with torch.no_grad():
        ours, expected = _ours(theirs)(**for_us), theirs(**for_hf).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_the_image_changes_what_follows_it_only(theirs: Any) -> None:
    torch.manual_seed(1)
    _, inputs = _inputs([(1, 2)], first=3)
    model = _ours(theirs)
    with torch.no_grad():
        seen, blind = model(**inputs), model(inputs["tokens"])
    torch.testing.assert_close(seen[:, :3], blind[:, :3])
    assert (seen[:, 3:] - blind[:, 3:]).abs().max() > 1e-3


def test_hf_round_trip_is_exact(theirs: Any) -> None:
    state = dict(theirs.state_dict())
    ours = llama3_vision_hf_to_tune(state, **SIZES)
    back = llama3_vision_tune_to_hf(ours, **SIZES)
    again = llama3_vision_hf_to_tune(back, **SIZES)
    assert len(back) == len(state)
    assert set(again) == set(ours) and all(torch.equal(again[key], ours[key]) for key in ours)
    for key, value in state.items():
        name = key.replace("model.language_model.", "language_model.model.")
        name = "language_model." + name if name.startswith("lm_head") else name.removeprefix("model.")
        assert torch.equal(back[name], value), key


def test_meta_round_trip_is_exact(theirs: Any) -> None:
    ours = llama3_vision_hf_to_tune(dict(theirs.state_dict()), **SIZES)
    theirs_meta = llama3_vision_tune_to_meta(ours)
    assert theirs_meta["vision_model.vision_encoder.conv1._linear.weight"].dim() == 2
    back = llama3_vision_meta_to_tune({**theirs_meta, "text_model.rope.freqs": torch.ones(1)})
    assert set(back) == set(ours) and all(torch.equal(back[key], ours[key]) for key in ours)
