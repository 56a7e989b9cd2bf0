"""The sizes of T5 v1.1."""

from __future__ import annotations

from torchtune.models.t5._component_builders import t5_encoder
from torchtune.models.t5._encoder import T5Encoder
from torchtune.models.t5._tokenizer import T5Tokenizer


def t5_v1_1_xxl_encoder(max_seq_len: int = 512) -> T5Encoder:
    """Build the encoder of T5 v1.1 XXL (https://huggingface.co/google/t5-v1_1-xxl).

    Args:
        max_seq_len (int): longest input.

    Returns:
        T5Encoder: ``[b, s]`` token ids to ``[b, s, 4096]``.
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
    """Build the tokenizer of T5.

    Args:
        path: the SentencePiece model.
        max_seq_len: tokens that a text is filled up to.
        truncate: True cuts longer texts.

    Returns:
        T5Tokenizer: texts to ids ``[b, max_seq_len]``.
    """
    return T5Tokenizer(path, max_seq_len=max_seq_len, truncate=truncate)
