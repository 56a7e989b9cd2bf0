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
    """The encoder of a T5 v1.1 model, ``[b, s]`` token ids to ``[b, s, embed_dim]``; see :class:`T5Encoder`.

    Source: https://arxiv.org/abs/1910.10683 (T5), https://arxiv.org/abs/2002.05202 (gated GELU)
    """
    return T5Encoder(**locals())
