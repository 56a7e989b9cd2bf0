"""The rotary embedding of Llama 3.1 and later."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchtune.modules.position_embeddings import RotaryPositionalEmbeddings


class Llama3ScaledRoPE(RotaryPositionalEmbeddings):
    """Rotary embedding whose low frequencies are stretched, so that longer inputs than in training stay in range.

    Wavelengths shorter than ``old_context_len / high_freq_factor`` stay, those longer than
    ``old_context_len / low_freq_factor`` are multiplied by ``scale_factor``; between the two it is interpolated.

    Args:
        dim (int): size of one head.
        max_seq_len (int): positions to prepare for.
        base (int): base of the frequencies.
        scale_factor (int): factor of the longest wavelengths.
        low_freq_factor (int): bounds the wavelengths that are fully stretched.
        high_freq_factor (int): bounds the wavelengths that stay.
        old_context_len (int): tokens that the model was first trained on.

    Source: https://arxiv.org/abs/2407.21783 and Meta's reference code (constants).
    """

    def __init__(
        self,
        dim: int,
        max_seq_len: int = 4096,
        base: int = 10_000,
        scale_factor: int = 8,
        low_freq_factor: int = 1,
        high_freq_factor: int = 4,
        old_context_len: int = 8192,
    ) -> None:
        self.scale_factor = scale_factor
        self.low_freq_factor = low_freq_factor
        self.high_freq_factor = high_freq_factor
        self.old_context_len = old_context_len
        super().__init__(dim, max_seq_len, base)

    def _compute_theta(self, device: torch.device) -> Tensor:
        factors = (self.scale_factor, self.low_freq_factor, self.high_freq_factor, self.old_context_len)
        return self.apply_scaling(super()._compute_theta(device), *factors)

    def apply_scaling(
        self, freqs: Tensor, scale_factor: int, low_freq_factor: int, high_freq_factor: int, old_context_len: int
    ) -> Tensor:
        """The frequencies ``[dim / 2]`` with the low ones stretched; see :class:`Llama3ScaledRoPE`.

        Args:
            freqs (Tensor): frequencies ``[dim / 2]``, in radians per position.
        """
        stretched = freqs / scale_factor
        turns = old_context_len * freqs / (2 * math.pi)
        if high_freq_factor == low_freq_factor:
            return torch.where(turns < low_freq_factor, stretched, freqs)
        kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
        return (1 - kept) * stretched + kept * freqs
