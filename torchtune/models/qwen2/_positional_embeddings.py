"""The rotary embedding of Qwen2."""

from __future__ import annotations

from torchtune.models.phi3._position_embeddings import Phi3RotaryPositionalEmbeddings


class Qwen2RotaryPositionalEmbeddings(Phi3RotaryPositionalEmbeddings):
    """That of Phi-3 with Qwen2's base (https://arxiv.org/abs/2407.10671)."""

    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 1_000_000.0) -> None:
        super().__init__(dim, max_seq_len, base)
