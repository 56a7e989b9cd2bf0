"""Rotary embeddings in the layout of Hugging Face, and the ways to stretch them for longer inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchtune.modules._functional import rotate_halves, rotate_pairs
from torchtune.modules.position_embeddings import RotaryPositionalEmbeddings

_KINDS = ("default", "linear", "llama3", "yarn", "longrope")


def _llama3(theta: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Long wavelengths are stretched, short ones stay, those between are mixed (Llama 3.1)."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * theta / (2 * math.pi)
    kept = ((turns - low) / max(high - low, 1e-9)).clamp(0, 1)
    return (1 - kept) * theta / scaling["factor"] + kept * theta


def _yarn(theta: Tensor, scaling: Mapping[str, Any], base: float, dim: int) -> Tensor:
    """Channels that turn often within the first context stay, those that turn rarely are stretched (YaRN)."""

    def channel(turns: float) -> float:
        return (
            dim * math.log(scaling["original_max_position_embeddings"] / (turns * 2 * math.pi)) / (2 * math.log(base))
        )

    first, last = channel(scaling.get("beta_fast") or 32.0), channel(scaling.get("beta_slow") or 1.0)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    places = torch.arange(len(theta), dtype=torch.float32, device=theta.device)
    stretched = ((places - first) / max(last - first, 0.001)).clamp(0, 1)
    return theta / scaling["factor"] * stretched + theta * (1 - stretched)


def _mscale(factor: float, scale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def kind_of_scaling(scaling: Mapping[str, Any]) -> str:
    """The kind of scaling that ``rope_parameters`` name; an error for one that isn't built."""
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    kind = {"su": "longrope"}.get(kind, kind)
    if kind not in _KINDS:
        raise ValueError(f"RoPE scaling {kind!r} isn't built; built are {', '.join(_KINDS)}")
    return kind


class ScaledRotaryPositionalEmbeddings(RotaryPositionalEmbeddings):
    """Rotary embedding as ``rope_parameters`` of a Hugging Face ``config.json`` describes it: ``scaling``.

    That has ``rope_type`` (default, linear, llama3, yarn or longrope) and what it needs; ``partial_rotary_factor`` rotates only
    this share of the channels. With ``pairs`` neighbouring channels are rotated, not those half a head apart: for models whose
    rows are reordered. A ``rope_type`` that isn't built, or factors that don't fit the size of a head, are a ValueError.

    Source: https://arxiv.org/abs/2309.00071 (YaRN), https://arxiv.org/abs/2402.13753 (LongRoPE)
    """

    def __init__(
        self,
        dim: int,
        max_seq_len: int = 4096,
        base: float = 10_000.0,
        scaling: Mapping[str, Any] | None = None,
        pairs: bool = False,
    ) -> None:
        self.scaling: dict[str, Any] = dict(scaling or {})
        self.pairs = pairs
        self.kind = kind_of_scaling(self.scaling)
        super().__init__(int(dim * (self.scaling.get("partial_rotary_factor") or 1.0)), max_seq_len, base)  # type: ignore[arg-type]

    @cached_property
    def attention_factor(self) -> float:
        """Factor of cosines and sines, so of the root of each score."""
        get = self.scaling.get
        if self.kind not in ("yarn", "longrope"):
            return 1.0
        if get("attention_factor") is not None:
            return float(self.scaling["attention_factor"])
        if self.kind == "yarn":
            if get("mscale") and get("mscale_all_dim"):
                return _mscale(get("factor", 1.0), get("mscale", 1.0)) / _mscale(
                    get("factor", 1.0), get("mscale_all_dim", 1.0)
                )
            return _mscale(self.scaling["factor"])
        first = self.scaling["original_max_position_embeddings"]
        factor = get("factor") or get("max_position_embeddings", first) / first
        return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(first))

    def _compute_theta(self, device: torch.device) -> Tensor:
        """Frequencies ``[dim / 2]``, or ``[2, dim / 2]`` for short and long inputs (LongRoPE)."""
        theta = super()._compute_theta(device)
        if self.kind == "linear":
            return theta / self.scaling["factor"]
        if self.kind == "llama3":
            return _llama3(theta, self.scaling)
        if self.kind == "yarn":
            return _yarn(theta, self.scaling, self.base, self.dim)
        if self.kind == "longrope":
            return torch.stack([self._stretched(theta, self.scaling[name]) for name in ("short_factor", "long_factor")])
        return theta

    def _stretched(self, theta: Tensor, factors: Sequence[float]) -> Tensor:
        if len(factors) != len(theta):
            raise ValueError(f"LongRoPE has {len(factors)} factors; {self.dim} rotated channels need {len(theta)}")
        return theta / torch.tensor(factors, dtype=torch.float32, device=theta.device)

    def _compute_cache(self, theta: Tensor) -> Tensor:
        """Cosines and sines, ``[max_seq_len, 2 * dim]``, or ``[max_seq_len, dim / 2, 2]`` for pairs; short, then long."""
        positions = torch.arange(self.max_seq_len, dtype=torch.float32, device=theta.device)
        angles = torch.cat([torch.outer(positions, row) for row in theta.view(-1, self.dim // 2)])
        cos, sin = angles.cos() * self.attention_factor, angles.sin() * self.attention_factor
        return torch.stack([cos, sin], dim=-1) if self.pairs else torch.cat([cos, cos, sin, sin], dim=-1)

    def _rows(self, x: Tensor, input_pos: Tensor | None) -> Tensor:
        """As for short inputs or, where any position is past the first context, as for long ones."""
        if self.kind != "longrope":
            return super()._rows(x, input_pos)
        if input_pos is None:
            if x.shape[1] > self.max_seq_len:
                super()._rows(x, None)  # says what is wrong
            input_pos = torch.arange(x.shape[1], device=x.device)
        is_long = input_pos.max() >= self.scaling["original_max_position_embeddings"]
        rows = self._cache_on(x.device)[input_pos + is_long * self.max_seq_len]
        return rows if input_pos.dim() > 1 else rows.unsqueeze(0)

    def _rotate(self, x: Tensor, rows: Tensor) -> Tensor:
        """Rotate the first ``dim`` channels of ``x`` ``[b, s, n, h]``."""
        turned, still = x.split([self.dim, x.shape[-1] - self.dim], dim=-1)
        rows = rows.unsqueeze(2)
        turned = rotate_pairs(turned, rows) if self.pairs else rotate_halves(turned, *rows.chunk(2, dim=-1))
        return torch.cat([turned, still], dim=-1) if still.shape[-1] else turned


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


class Qwen2RotaryPositionalEmbeddings(Phi3RotaryPositionalEmbeddings):
    """That of Phi-3 with Qwen2's base (https://arxiv.org/abs/2407.10671)."""

    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 1_000_000.0) -> None:
        super().__init__(dim, max_seq_len, base)
