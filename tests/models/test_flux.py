"""The autoencoder of FLUX.1: shapes, sampling, and the published keys."""

from __future__ import annotations

import pytest
import torch

from torchtune.models.convert_weights import UnexpectedKey
from torchtune.models.flux import flux_1_autoencoder
from torchtune.models.flux._convert_weights import flux_ae_hf_to_tune

KEYS = {
    "encoder.conv_in.weight": "encoder.conv_in.weight",
    "encoder.down.1.block.0.nin_shortcut.weight": "encoder.down.1.layers.0.shortcut.weight",
    "encoder.down.0.downsample.conv.bias": "encoder.down.0.downsample.conv.bias",
    "encoder.mid.block_2.norm2.weight": "encoder.mid.2.main.3.weight",
    "encoder.mid.attn_1.proj_out.bias": "encoder.mid.1.attn.output_proj.bias",
    "encoder.norm_out.weight": "encoder.end.0.weight",
    "decoder.up.3.block.2.conv2.weight": "decoder.up.0.layers.2.main.5.weight",
    "decoder.up.0.block.1.norm1.weight": "decoder.up.3.layers.1.main.0.weight",
    "decoder.up.2.upsample.conv.weight": "decoder.up.1.upsample.conv.weight",
    "decoder.conv_out.bias": "decoder.end.2.bias",
}


def test_an_image_becomes_latents_and_an_image_again() -> None:
    model = flux_1_autoencoder(resolution=32, ch_base=32, ch_mults=[1, 2, 2], ch_z=4).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        latents = model.encode(image, torch.Generator().manual_seed(0))
        assert latents.shape == (2, 4, 8, 8)
        assert torch.equal(latents, model.encode(image, torch.Generator().manual_seed(0)))
        assert not torch.equal(latents, model.encode(image, torch.Generator().manual_seed(1)))
        assert model.decode(latents).shape == model(image).shape == image.shape


def test_latents_are_shifted_and_scaled() -> None:
    model = flux_1_autoencoder(resolution=16, ch_base=32, ch_mults=[1, 1], ch_z=2)
    mean = torch.randn(1, 2, 8, 8)
    model.encoder = torch.nn.Identity()
    latents = model.encode(torch.cat([mean, torch.full_like(mean, -80.0)], dim=1))
    torch.testing.assert_close(latents, 0.3611 * (mean - 0.1159))


def test_published_keys_become_ours() -> None:
    shapes = {key: torch.zeros(4, 4, 1, 1) for key in KEYS}
    assert set(flux_ae_hf_to_tune(shapes)) == set(KEYS.values())
    linear = flux_ae_hf_to_tune({"encoder.mid.attn_1.q.weight": torch.zeros(4, 4, 1, 1)})
    assert linear["encoder.mid.1.attn.q_proj.weight"].shape == (4, 4)
    with pytest.raises(UnexpectedKey, match="FLUX autoencoder"):
        flux_ae_hf_to_tune({"encoder.mid.block_3.norm1.weight": torch.zeros(4)})
