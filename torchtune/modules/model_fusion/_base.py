"""What deep and early fusion have in common: all but the forward pass is the decoder's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchtune.modules.transformer import TransformerDecoder


class _FusionModel(nn.Module):
    """A decoder with encoders; caches, output layer and sizes are the decoder's."""

    decoder: TransformerDecoder

    @property
    def max_seq_len(self) -> int:
        """Longest input of the decoder."""
        return self.decoder.max_seq_len

    @property
    def tok_embeddings(self) -> nn.Module:
        """The decoder's embeddings."""
        return self.decoder.tok_embeddings

    @property
    def norm(self) -> nn.Module:
        """The decoder's last norm."""
        return self.decoder.norm

    @property
    def decoder_max_cache_seq_len(self) -> int | None:
        """Tokens that the decoder's KV caches have room for; None without caches."""
        return self.decoder.decoder_max_cache_seq_len

    @property
    def encoder_max_cache_seq_len(self) -> int | None:
        """Encoder outputs that the KV caches have room for; None without caches."""
        return self.decoder.encoder_max_cache_seq_len

    @property
    def output(self) -> Any:
        """The decoder's output layer."""
        return self.decoder.output

    @property
    def skip_output_layer(self) -> bool:
        """Whether the model returns hidden states, for losses that do the projection themselves."""
        return self.decoder.skip_output_layer

    @skip_output_layer.setter
    def skip_output_layer(self, skip: bool) -> None:
        self.decoder.skip_output_layer = skip

    def set_num_output_chunks(self, num_output_chunks: int) -> None:
        """Return logits in pieces along the sequence.

        Args:
            num_output_chunks (int): number of pieces; 0 for one whole tensor.
        """
        self.decoder.set_num_output_chunks(num_output_chunks)

    def setup_caches(
        self,
        batch_size: int,
        dtype: torch.dtype,
        *,
        encoder_max_seq_len: int | None = None,
        decoder_max_seq_len: int | None = None,
    ) -> None:
        """Make the decoder's KV caches.

        Args:
            batch_size (int): most sequences at once.
            dtype (torch.dtype): of keys and values.
            encoder_max_seq_len (int | None): most encoder outputs per sequence.
            decoder_max_seq_len (int | None): most tokens per sequence.
        """
        self.decoder.setup_caches(
            batch_size, dtype, encoder_max_seq_len=encoder_max_seq_len, decoder_max_seq_len=decoder_max_seq_len
        )

    def caches_are_setup(self) -> bool:
        """Whether there are KV caches."""
        return self.decoder.caches_are_setup()

    def caches_are_enabled(self) -> bool:
        """Whether the KV caches are used."""
        return self.decoder.caches_are_enabled()

    def reset_caches(self) -> None:
        """Empty the KV caches."""
        self.decoder.reset_caches()
