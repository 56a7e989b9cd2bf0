"""The sizes of T5 v1.1."""

from __future__ import annotations

from torchtune.models.t5._component_builders import t5_encoder
from torchtune.models.t5._encoder import T5Encoder
from torchtune.models.t5._tokenizer import T5Tokenizer


def t5_v1_1_xxl_encoder(max_seq_len: int = 512) -> T5Encoder:
    """The encoder of T5 v1.1 XXL, ``[b, s]`` token ids to ``[b, s, 4096]`` (https://huggingface.co/google/t5-v1_1-xxl).

    Args:
        max_seq_len (int): longest input.
    """
    return t5_encoder(
        embed_dim=4096,
        mlp_dim=10_240,
        num_heads=64,
        head_dim=64,
        num_layers=24,
        rel_pos_num_buckets=32,
        rel_pos_max_dist=128,
        vocab_size=32_128,
        norm_eps=1e-6,
        max_seq_len=max_seq_len,
    )


def t5_tokenizer(path: str, max_seq_len: int = 512, truncate: bool = True) -> T5Tokenizer:
    """The tokenizer of T5, texts to ids ``[b, max_seq_len]``; see :class:`T5Tokenizer`."""
    return T5Tokenizer(path, max_seq_len=max_seq_len, truncate=truncate)
