"""What deep and early fusion have in common: all but the forward pass is the decoder's."""

from __future__ import annotations

import torch
from torch import nn

from torchtune.modules.common_utils import passed_on
from torchtune.modules.transformer import TransformerDecoder


class _FusionModel(nn.Module):
    """A decoder with encoders; caches, output layer and sizes are the decoder's."""

    decoder: TransformerDecoder
    max_seq_len = passed_on("decoder.max_seq_len", "Longest input of the decoder.")
    tok_embeddings = passed_on("decoder.tok_embeddings", "The decoder's embeddings.")
    norm = passed_on("decoder.norm", "The decoder's last norm.")
    output = passed_on("decoder.output", "The decoder's output layer.")
    decoder_max_cache_seq_len = passed_on(
        "decoder.decoder_max_cache_seq_len", "Tokens that the KV caches have room for."
    )
    encoder_max_cache_seq_len = passed_on("decoder.encoder_max_cache_seq_len", "Likewise for the encoder's outputs.")

    @property
    def skip_output_layer(self) -> bool:
        """Whether the model returns hidden states, for losses that do the projection themselves."""
        return self.decoder.skip_output_layer

    @skip_output_layer.setter
    def skip_output_layer(self, skip: bool) -> None:
        self.decoder.skip_output_layer = skip

    def set_num_output_chunks(self, num_output_chunks: int) -> None:
        """Return logits in pieces; see :meth:`TransformerDecoder.set_num_output_chunks`."""
        self.decoder.set_num_output_chunks(num_output_chunks)

    def setup_caches(
        self,
        batch_size: int,
        dtype: torch.dtype,
        *,
        encoder_max_seq_len: int | None = None,
        decoder_max_seq_len: int | None = None,
    ) -> None:
        """Make the decoder's KV caches; see :meth:`TransformerDecoder.setup_caches`."""
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
