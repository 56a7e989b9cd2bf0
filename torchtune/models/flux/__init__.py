"""FLUX.1: the image autoencoder."""

from torchtune.models.flux._model_builders import flux_1_autoencoder

__all__ = ["flux_1_autoencoder"]
