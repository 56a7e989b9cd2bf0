"""Encoders of text and images against ``transformers``, on tiny random weights in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchtune.models.clip import clip_vision_encoder
from torchtune.models.clip._convert_weights import clip_text_hf_to_tune, clip_text_tune_to_hf
from torchtune.models.clip._text_encoder import CLIPTextEncoder, QuickGELU
from torchtune.models.flux import flux_1_autoencoder
from torchtune.models.flux._convert_weights import flux_ae_hf_to_tune
from torchtune.models.t5 import t5_encoder
from torchtune.models.t5._convert_weights import t5_encoder_hf_to_tune, t5_encoder_tune_to_hf

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def _randomize(model: nn.Module) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    return model.eval()


def test_t5_encoder_equals_transformers() -> None:
    config = transformers.T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=3,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        feed_forward_proj="gated-gelu",
    )
    theirs = _randomize(transformers.T5EncoderModel(config))
    ours = t5_encoder(32, 48, 4, 8, 3, 8, 20, 64, config.layer_norm_epsilon, 40)
    converted = t5_encoder_hf_to_tune(dict(theirs.state_dict()))
    ours.load_state_dict(converted)
    tokens = torch.randint(0, 64, (2, 33))
    mask = torch.arange(33)[None] < torch.tensor([[33], [20]])
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).last_hidden_state, **TOLERANCE)
        torch.testing.assert_close(
            ours(tokens, mask)[1, :20],
            theirs(tokens, attention_mask=mask.long()).last_hidden_state[1, :20],
            **TOLERANCE,
        )
    assert set(t5_encoder_tune_to_hf(converted)) == set(theirs.state_dict()) - {"shared.weight"}
    with pytest.raises(ValueError, match="max_seq_len"):
        ours(torch.zeros(1, 41, dtype=torch.long))


def test_clip_text_encoder_equals_transformers() -> None:
    config = transformers.CLIPTextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=20,
        eos_token_id=63,
        bos_token_id=62,
        pad_token_id=63,
    )
    theirs = _randomize(transformers.CLIPTextModel(config))
    ours = CLIPTextEncoder(vocab_size=64, max_seq_len=20, embed_dim=32, num_heads=4, num_layers=3).eval()
    state = dict(theirs.state_dict())
    prefix = "" if "text_model.final_layer_norm.weight" in state else "text_model."
    state = {prefix + key: value for key, value in state.items()}
    converted = clip_text_hf_to_tune(state)
    ours.load_state_dict(converted)
    tokens = torch.randint(0, 62, (2, 17))
    tokens[0, 9:] = 63
    tokens[1, 16] = 63
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).pooler_output, **TOLERANCE)
    back = clip_text_tune_to_hf(converted)
    assert set(back) == set(state) - {"text_model.embeddings.position_ids"}


# The names of transformers' image encoder and of ours.
VISION_KEYS = {
    "vision_model.embeddings.class_embedding": "cls_token_embedding.weight",
    "vision_model.embeddings.patch_embedding.weight": "conv.weight",
    "vision_model.embeddings.position_embedding.weight": "token_pos_embedding.positional_embedding",
    "vision_model.pre_layrnorm.": "ln_pre.",
    "vision_model.post_layernorm.": "ln_post.",
    "vision_model.encoder.layers.": "layers.",
    "self_attn.out_proj.": "attn.output_proj.",
    "self_attn.": "attn.",
    "layer_norm1.": "sa_norm.",
    "layer_norm2.": "mlp_norm.",
    "mlp.fc1.": "mlp.w1.",
    "mlp.fc2.": "mlp.w2.",
    "visual_projection.weight": "cls_projection.weight",
}


@pytest.mark.parametrize("tile_size", [16, 20])
def test_clip_vision_encoder_equals_transformers(tile_size: int) -> None:
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        projection_dim=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=tile_size,
        patch_size=4,
    )
    theirs = _randomize(transformers.CLIPVisionModelWithProjection(config))
    sizes: dict[str, Any] = {"tile_size": tile_size, "patch_size": 4, "embed_dim": 32, "num_layers": 3, "num_heads": 4}
    sizes |= {"activation": QuickGELU, "max_num_tiles": 1, "out_indices": [0, 2]}
    state = {}
    for key, tensor in theirs.state_dict().items():
        for name, ours in VISION_KEYS.items():
            key = key.replace(name, ours)
        state[key] = tensor.T if key == "cls_projection.weight" else tensor
    state.pop("vision_model.embeddings.position_ids", None)
    projected = clip_vision_encoder(**sizes, output_cls_projection=True, cls_output_dim=24).eval()
    projected.load_state_dict(state)
    plain = clip_vision_encoder(**sizes).eval()
    plain.load_state_dict({key: tensor for key, tensor in state.items() if "projection" not in key})
    images = torch.randn(2, 1, 1, 3, tile_size, tile_size)
    with torch.no_grad():
        expected = theirs(images[:, 0, 0], output_hidden_states=True)
        torch.testing.assert_close(projected(images)[0][:, 0, 0, 0], expected.image_embeds, **TOLERANCE)
        tokens, hidden = plain(images)
        normed = theirs.vision_model.post_layernorm(expected.last_hidden_state)
        torch.testing.assert_close(tokens[:, 0, 0], normed, **TOLERANCE)
        for layer, found in zip([0, 2], hidden, strict=True):
            torch.testing.assert_close(found[:, 0, 0], expected.hidden_states[layer], **TOLERANCE)


def _published_flux_keys(levels: int, blocks: int) -> list[str]:
    """Names of the autoencoder's tensors as in ``ae.safetensors``."""
    block = ["norm1", "conv1", "norm2", "conv2", "nin_shortcut"]
    layers = []
    for half, way, count in (("encoder", "down", blocks), ("decoder", "up", blocks + 1)):
        layers += [f"{half}.{end}" for end in ("conv_in", "norm_out", "conv_out")]
        layers += [f"{half}.mid.block_{index}.{part}" for index in (1, 2) for part in block]
        layers += [f"{half}.mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")]
        for level in range(levels):
            layers += [f"{half}.{way}.{level}.block.{index}.{part}" for index in range(count) for part in block]
            layers.append(f"{half}.{way}.{level}.{way}sample.conv")
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def test_flux_autoencoder_equals_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    convert = pytest.importorskip("diffusers.loaders.single_file_utils").convert_ldm_vae_checkpoint
    theirs = diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[32, 64, 64],
        layers_per_block=2,
        latent_channels=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    ours = _randomize(flux_1_autoencoder(resolution=32, ch_base=32, ch_mults=[1, 2, 2], ch_z=4))
    state = ours.state_dict()
    # Weights under the published names, which diffusers' own conversion reads too; there attention is a 1x1 convolution.
    keys = _published_flux_keys(levels=3, blocks=2)
    names = dict(zip(flux_ae_hf_to_tune({key: torch.zeros(1) for key in keys}), keys, strict=True))
    published = {names[key]: value[..., None, None] if "proj.weight" in key else value for key, value in state.items()}
    ours.load_state_dict(flux_ae_hf_to_tune(published))
    theirs.load_state_dict(convert(published, theirs.config))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        moments = theirs.encode(images).latent_dist.parameters
        assert moments.std() > 0.1
        torch.testing.assert_close(ours.encoder(images), moments, **TOLERANCE)
        latents = torch.randn(2, 4, 8, 8)
        torch.testing.assert_close(ours.decoder(latents), theirs.decode(latents).sample, **TOLERANCE)
