"""The rotary embedding of Phi-3."""

from __future__ import annotations

from torch import Tensor

from torchtune.models._rope import ScaledRotaryPositionalEmbeddings


class Phi3RotaryPositionalEmbeddings(ScaledRotaryPositionalEmbeddings):
    """Rotary embedding of channels half a head apart, as Phi-3 uses it.

    Args:
        dim (int): size of one head.
        max_seq_len (int): positions to prepare for.
        base (float): base of the frequencies.

    Source: https://arxiv.org/abs/2404.14219 (Phi-3), https://arxiv.org/abs/2104.09864 (RoPE)
    """

    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 10_000) -> None:
        super().__init__(dim, max_seq_len, base)

    def forward(self, x: Tensor, input_pos: Tensor | None = None) -> Tensor:
        return super().forward(x, input_pos=input_pos)
