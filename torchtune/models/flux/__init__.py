"""FLUX.1: the image autoencoder."""

from __future__ import annotations

from torchtune.models.flux._autoencoder import FluxAutoencoder, FluxDecoder, FluxEncoder


def flux_1_autoencoder(
    resolution: int = 256,
    ch_in: int = 3,
    ch_out: int = 3,
    ch_base: int = 128,
    ch_mults: list[int] = [1, 2, 4, 4],  # noqa: B006
    ch_z: int = 16,
    n_layers_per_resample_block: int = 2,
    scale_factor: float = 0.3611,
    shift_factor: float = 0.1159,
) -> FluxAutoencoder:
    """Build the image autoencoder of FLUX.1.

    Args:
        resolution (int): height and width of the images.
        ch_in (int): channels of the images that come in.
        ch_out (int): channels of the images that go out.
        ch_base (int): channels at the finest resolution.
        ch_mults (list[int]): channels per resolution, as multiples of ``ch_base``.
        ch_z (int): channels of a latent.
        n_layers_per_resample_block (int): residual blocks per resolution on the way down; one more on the way up.
        scale_factor (float): latents are scaled by this,
        shift_factor (float): after this was subtracted.

    Returns:
        FluxAutoencoder: ``[b, ch_in, h, w]`` images to images, through latents.
    """
    channels = [ch_base * mult for mult in ch_mults]
    return FluxAutoencoder(
        img_shape=(ch_in, resolution, resolution),
        encoder=FluxEncoder(ch_in, ch_z, channels, n_layers_per_resample_block),
        decoder=FluxDecoder(ch_out, ch_z, channels, n_layers_per_resample_block + 1),
        scale_factor=scale_factor,
        shift_factor=shift_factor,
    )


__all__ = ["flux_1_autoencoder"]
