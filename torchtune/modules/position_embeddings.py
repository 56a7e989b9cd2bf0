"""Rotary positional embeddings, for text and for image tiles."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules._functional import rotate_pairs


class _RotaryCache(nn.Module):
    """Buffers ``theta`` and ``cache`` that are computed, never loaded.

    They stay fp32 whatever dtype the module is cast to, and are built anew on the device of the input where the module
    was made on the meta device or moved past ``nn.Module.to``. Subclasses say how they are computed.
    """

    theta: Tensor
    cache: Tensor

    def _compute_theta(self, device: torch.device) -> Tensor:
        raise NotImplementedError

    def _compute_cache(self, theta: Tensor) -> Tensor:
        raise NotImplementedError

    def _build(self, device: torch.device | str) -> None:
        with torch.device(device), torch.no_grad():
            theta = self._compute_theta(torch.device(device))
            self.register_buffer("theta", theta, persistent=False)
            self.register_buffer("cache", self._compute_cache(theta), persistent=False)

    def _start(self, device: torch.device) -> None:
        """Build the buffers, or empty ones on the meta device: they would be thrown away, and torch import its compiler."""
        if device.type != "meta":
            return self._build(device)
        for name in ("theta", "cache"):
            self.register_buffer(name, torch.empty(0, device=device), persistent=False)
        return None

    def rope_init(self) -> None:
        """Compute the buffers anew, on torch's default device or, if that is the CPU, where they are."""
        device = torch.get_default_device()
        current = self._buffers.get("cache")
        if device.type == "cpu" and current is not None and not current.is_meta:
            device = current.device
        self._start(device)

    def _cache_on(self, device: torch.device) -> Tensor:
        """The cache on this device, built there if need be."""
        if self.cache.device != device or not self.cache.numel():
            self._build(device)
        return self.cache

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _RotaryCache:
        # ``fn`` moves, casts, or (``to_empty``) leaves garbage: only the device is wanted of it.
        try:
            device = fn(torch.empty(0, device=self.cache.device)).device
        except NotImplementedError:  # a copy out of the meta device, where only the buffers were left there
            device = fn(torch.empty(0, device="cpu")).device
        if device != self.cache.device:
            self._start(device)
        return self


class RotaryPositionalEmbeddings(_RotaryCache):
    """Rotate queries and keys by angles that grow with their position (RoFormer, https://arxiv.org/abs/2104.09864).

    Variants override ``_compute_theta`` (other frequencies), ``_compute_cache`` and ``_rotate`` (other layouts).

    Args:
        dim (int): size of one head.
        max_seq_len (int): positions to prepare for.
        base (int): base of the frequencies.
    """

    def __init__(self, dim: int, max_seq_len: int = 4096, base: int = 10_000) -> None:
        super().__init__()
        self.dim = dim
        self.base = base
        self.max_seq_len = max_seq_len
        self._last: tuple[Any, ...] | None = None
        self.rope_init()

    def _compute_theta(self, device: torch.device) -> Tensor:
        """Frequencies ``[dim / 2]``, fp32."""
        exponents = torch.arange(0, self.dim, 2, device=device)[: self.dim // 2].float() / self.dim
        return 1.0 / (self.base**exponents)

    def _compute_cache(self, theta: Tensor) -> Tensor:
        """Cosines and sines ``[max_seq_len, dim / 2, 2]``."""
        positions = torch.arange(self.max_seq_len, dtype=theta.dtype, device=theta.device)
        angles = torch.outer(positions, theta).float()
        return torch.stack([angles.cos(), angles.sin()], dim=-1)

    def _rotate(self, x: Tensor, rows: Tensor) -> Tensor:
        """Rotate ``x`` ``[b, s, n, h]`` by rows of the cache ``[b or 1, s, ...]``."""
        return rotate_pairs(x, rows.unsqueeze(2))

    def build_rope_cache(self, max_seq_len: int = 4096) -> None:
        """Prepare for this many positions.

        Args:
            max_seq_len (int): number of positions.
        """
        self.max_seq_len = max_seq_len
        self._build(self.cache.device)

    def _rows(self, x: Tensor, input_pos: Tensor | None) -> Tensor:
        """The rows of the cache for these positions, ``[b or 1, s, ...]``."""
        cache = self._cache_on(x.device)
        if input_pos is None:
            if x.shape[1] > self.max_seq_len:
                raise ValueError(
                    f"The input has {x.shape[1]} positions, but {type(self).__name__} was made for "
                    f"max_seq_len={self.max_seq_len}. Shorten the input or build the model with a larger max_seq_len"
                )
            return cache[: x.shape[1]].unsqueeze(0)
        if torch.compiler.is_compiling() or input_pos.is_inference() or type(input_pos) is not Tensor:
            rows = cache[input_pos]
            return rows if input_pos.dim() > 1 else rows.unsqueeze(0)
        # Every layer asks for the same positions, for queries and for keys.
        if self._last is not None:
            seen, version, kept_cache, rows = self._last
            if seen() is input_pos and version == input_pos._version and kept_cache is cache:
                return rows
        rows = cache[input_pos]
        rows = rows if input_pos.dim() > 1 else rows.unsqueeze(0)
        self._last = (weakref.ref(input_pos), input_pos._version, cache, rows)
        return rows

    def forward(self, x: Tensor, *, input_pos: Tensor | None = None) -> Tensor:
        """Rotate queries or keys: ``[b, s, n, h] -> [b, s, n, h]``.

        Args:
            input_pos (Tensor | None): position of each token, ``[b, s]`` or ``[s]``; None is 0, 1, 2, ...

        Raises:
            ValueError: for more tokens than ``max_seq_len``.
        """
        return self._rotate(x, self._rows(x, input_pos))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


class VisionRotaryPositionalEmbeddings(_RotaryCache):
    """Rotate the patches of each tile by their column and row: half of the channels each (Llama 4).

    Positions count from 1; the CLS token is not rotated.

    Args:
        patch_size (int): side of a patch in pixels.
        tile_size (int): side of a tile in pixels.
        dim (int): size of one head.
        base (int): base of the frequencies.
        append_cls_token (bool): whether the CLS token is the last of a tile, not the first.
    """

    def __init__(
        self, patch_size: int, tile_size: int, dim: int, base: int = 10_000, append_cls_token: bool = True
    ) -> None:
        super().__init__()
        self.patch_grid_size = tile_size // patch_size
        self.dim = dim
        self.base = base
        self.append_cls_token = append_cls_token
        self.rope_init()

    def _compute_theta(self, device: torch.device) -> Tensor:
        """Frequencies ``[dim / 4]``, fp32."""
        half = self.dim // 2
        return 1.0 / (self.base ** (torch.arange(0, half, 2, device=device)[: half // 2].float() / half))

    def _compute_cache(self, theta: Tensor) -> Tensor:
        """Cosines and sines of one tile, ``[patches + 1, dim / 2, 2]``."""
        index = torch.arange(self.patch_grid_size**2, device=theta.device)
        column, row = index % self.patch_grid_size + 1, index // self.patch_grid_size + 1
        angles = torch.cat([torch.outer(column.float(), theta), torch.outer(row.float(), theta)], dim=1)
        still = angles.new_zeros(1, angles.shape[1])
        angles = torch.cat([angles, still] if self.append_cls_token else [still, angles])
        return torch.stack([angles.cos(), angles.sin()], dim=-1)

    def build_rope_cache(self) -> None:
        """Compute the cache anew."""
        self._build(self.cache.device)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Rotate queries or keys: ``[b, n_tiles * n_tokens, n, h] -> [b, n_tiles * n_tokens, n, h]``.

        Raises:
            ValueError: if the tokens aren't those of whole tiles.
        """
        cache = self._cache_on(x.device)
        if x.shape[1] % cache.shape[0] != 0:
            raise ValueError(
                f"Expected whole tiles of {cache.shape[0]} tokens (patches and CLS token), got {x.shape[1]} tokens"
            )
        tiles = x.reshape(-1, cache.shape[0], *x.shape[2:])
        return rotate_pairs(tiles, cache.unsqueeze(0).unsqueeze(2)).view(x.shape)
