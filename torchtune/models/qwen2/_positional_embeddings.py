"""The rotary embedding of Qwen2."""

from __future__ import annotations

from torchtune.models._rope import HalvesRotaryPositionalEmbeddings


class Qwen2RotaryPositionalEmbeddings(HalvesRotaryPositionalEmbeddings):
    """Rotary embedding of channels half a head apart, with Qwen2's base.

    Args:
        dim (int): size of one head.
        max_seq_len (int): positions to prepare for.
        base (float): base of the frequencies.

    Source: https://arxiv.org/abs/2407.10671 (Qwen2), https://arxiv.org/abs/2104.09864 (RoPE)
    """

    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 1_000_000.0) -> None:
        super().__init__(dim, max_seq_len, base)  # type: ignore[arg-type]
