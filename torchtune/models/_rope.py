"""Rotary embedding in the layout of Hugging Face: the two halves of a head rotate against each other."""

from __future__ import annotations

import torch
from torch import Tensor

from torchtune.modules._functional import rotate_halves
from torchtune.modules.position_embeddings import RotaryPositionalEmbeddings


class HalvesRotaryPositionalEmbeddings(RotaryPositionalEmbeddings):
    """Rotary embedding of channels half a head apart; else as :class:`~torchtune.modules.RotaryPositionalEmbeddings`.

    Args:
        dim (int): size of one head.
        max_seq_len (int): positions to prepare for.
        base (float): base of the frequencies.
    """

    def _compute_cache(self, theta: Tensor) -> Tensor:
        """Cosines and sines ``[max_seq_len, 2 * dim]``, each for both halves."""
        positions = torch.arange(self.max_seq_len, dtype=theta.dtype, device=theta.device)
        angles = torch.outer(positions, theta).float().repeat(1, 2)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def _rotate(self, x: Tensor, rows: Tensor) -> Tensor:
        """Rotate ``x`` ``[b, s, n, h]`` by rows of the cache ``[b or 1, s, 2 h]``."""
        cos, sin = rows.unsqueeze(2).chunk(2, dim=-1)
        return rotate_halves(x, cos, sin)

    def forward(self, x: Tensor, input_pos: Tensor | None = None) -> Tensor:
        """Rotate queries or keys.

        Args:
            x (Tensor): ``[b, s, n, h]``.
            input_pos (Tensor | None): position of each token, ``[b, s]`` or ``[s]``; None is 0, 1, 2, ...

        Returns:
            Tensor: ``[b, s, n, h]``.
        """
        return super().forward(x, input_pos=input_pos)
