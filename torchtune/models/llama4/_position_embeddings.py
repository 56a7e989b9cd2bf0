"""Rotary embeddings of Llama 4, for inputs of up to ten million tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE
from torchtune.modules.position_embeddings import RotaryPositionalEmbeddings


class UncachedRoPE(RotaryPositionalEmbeddings):
    """Rotary embedding that computes its angles from the positions: a table of all positions would take gigabytes."""

    def _compute_cache(self, theta: Tensor) -> Tensor:
        return theta.new_empty(0, theta.shape[0], 2)

    def _rows(self, x: Tensor, input_pos: Tensor | None) -> Tensor:
        self._cache_on(x.device)  # moves theta too
        if input_pos is None:
            if x.shape[1] > self.max_seq_len:
                raise ValueError(f"{x.shape[1]} positions, but max_seq_len is {self.max_seq_len}")
            input_pos = torch.arange(x.shape[1], device=x.device)
        positions = input_pos if input_pos.dim() > 1 else input_pos.unsqueeze(0)
        angles = positions.unsqueeze(-1).float() * self.theta
        return torch.stack([angles.cos(), angles.sin()], dim=-1)


class Llama4ScaledRoPE(UncachedRoPE, Llama3ScaledRoPE):
    """Rotary embedding whose low frequencies are stretched, with the constants of Llama 4 Scout.

    For its arguments see :class:`~torchtune.models.llama3_1.Llama3ScaledRoPE`.

    Source: https://huggingface.co/meta-llama/Llama-4-Scout-17B-16E (config.json)
    """

    def __init__(
        self,
        dim: int,
        max_seq_len: int = 10_485_760,
        base: int = 500_000,
        scale_factor: float = 16.0,
        low_freq_factor: float = 1.0,
        high_freq_factor: float = 1.0,
        old_context_len: int = 8192,
    ) -> None:
        Llama3ScaledRoPE.__init__(
            self,
            dim,
            max_seq_len,
            base,
            scale_factor,  # type: ignore[arg-type]
            low_freq_factor,  # type: ignore[arg-type]
            high_freq_factor,  # type: ignore[arg-type]
            old_context_len,
        )
