"""T5 v1.1 encoders of any size."""

from __future__ import annotations

from torchtune.models.t5._encoder import T5Encoder


def t5_encoder(
    embed_dim: int,
    mlp_dim: int,
    num_heads: int,
    head_dim: int,
    num_layers: int,
    rel_pos_num_buckets: int,
    rel_pos_max_dist: int,
    vocab_size: int,
    norm_eps: float,
    max_seq_len: int,
) -> T5Encoder:
    """Build the encoder of a T5 v1.1 model.

    Args:
        embed_dim (int): size of a token's vector.
        mlp_dim (int): hidden size of the feed-forward layers.
        num_heads (int): attention heads.
        head_dim (int): size of a head.
        num_layers (int): number of layers.
        rel_pos_num_buckets (int): buckets of the relative position bias.
        rel_pos_max_dist (int): distance that the last bucket starts from.
        vocab_size (int): number of tokens.
        norm_eps (float): epsilon of the norms.
        max_seq_len (int): longest input.

    Returns:
        T5Encoder: ``[b, s]`` token ids to ``[b, s, embed_dim]``.

    Source: https://arxiv.org/abs/1910.10683 (T5), https://arxiv.org/abs/2002.05202 (gated GELU)
    """
    return T5Encoder(**locals())
