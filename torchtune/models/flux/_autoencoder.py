"""The image autoencoder of FLUX.1: convolutions down to latents an eighth as wide and high, and back."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from torchtune.modules import MultiHeadAttention

_GROUPS, _EPS = 32, 1e-6


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels, eps=_EPS)


def _conv3(ch_in: int, ch_out: int) -> nn.Conv2d:
    return nn.Conv2d(ch_in, ch_out, kernel_size=3, padding=1)


class ResnetBlock(nn.Module):
    """Two convolutions beside a residual: ``[b, ch_in, h, w] -> [b, ch_out, h, w]``."""

    def __init__(self, ch_in: int, ch_out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _norm(ch_in), nn.SiLU(), _conv3(ch_in, ch_out), _norm(ch_out), nn.SiLU(), _conv3(ch_out, ch_out)
        )
        self.shortcut = nn.Identity() if ch_in == ch_out else nn.Conv2d(ch_in, ch_out, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[b, ch_in, h, w] -> [b, ch_out, h, w]``."""
        return self.main(x) + self.shortcut(x)


class AttentionBlock(nn.Module):
    """Attention of every pixel to every pixel, with one head: ``[b, c, h, w] -> [b, c, h, w]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.attn = MultiHeadAttention(
            embed_dim=channels,
            num_heads=1,
            num_kv_heads=1,
            head_dim=channels,
            q_proj=nn.Linear(channels, channels),
            k_proj=nn.Linear(channels, channels),
            v_proj=nn.Linear(channels, channels),
            output_proj=nn.Linear(channels, channels),
            is_causal=False,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[b, c, h, w] -> [b, c, h, w]``."""
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attn(pixels, pixels).transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Halve height and width by a strided convolution, padded at the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[b, c, h, w] -> [b, c, h / 2, w / 2]``."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width by repeating pixels, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv3(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[b, c, h, w] -> [b, c, 2 h, 2 w]``."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """The blocks of one resolution, and the change to the next."""

    def __init__(self, channels: list[int], resample: nn.Module | None, name: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ResnetBlock(a, b) for a, b in zip(channels, channels[1:], strict=False)))
        self.resample = name
        setattr(self, name, resample if resample is not None else nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.resample)(self.layers(x))


def _mid(channels: int) -> nn.Sequential:
    return nn.Sequential(ResnetBlock(channels, channels), AttentionBlock(channels), ResnetBlock(channels, channels))


def _end(ch_in: int, ch_out: int) -> nn.Sequential:
    return nn.Sequential(_norm(ch_in), nn.SiLU(), _conv3(ch_in, ch_out))


class FluxEncoder(nn.Module):
    """Images to mean and log variance of latents; ``channels`` of each resolution, the finest first."""

    def __init__(self, ch_in: int, ch_z: int, channels: list[int], blocks: int) -> None:
        super().__init__()
        self.conv_in = _conv3(ch_in, channels[0])
        previous = [channels[0], *channels[:-1]]
        self.down = nn.Sequential(
            *(
                _Level([a] + [b] * blocks, Downsample(b) if level < len(channels) - 1 else None, "downsample")
                for level, (a, b) in enumerate(zip(previous, channels, strict=True))
            )
        )
        self.mid = _mid(channels[-1])
        self.end = _end(channels[-1], 2 * ch_z)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[b, ch_in, h, w] -> [b, 2 * ch_z, h / 8, w / 8]`` (for four resolutions)."""
        return self.end(self.mid(self.down(self.conv_in(x))))


class FluxDecoder(nn.Module):
    """Latents to images; ``channels`` of each resolution, the finest first."""

    def __init__(self, ch_out: int, ch_z: int, channels: list[int], blocks: int) -> None:
        super().__init__()
        coarse = channels[::-1]
        self.conv_in = _conv3(ch_z, coarse[0])
        self.mid = _mid(coarse[0])
        previous = [coarse[0], *coarse[:-1]]
        self.up = nn.Sequential(
            *(
                _Level([a] + [b] * blocks, Upsample(b) if level < len(coarse) - 1 else None, "upsample")
                for level, (a, b) in enumerate(zip(previous, coarse, strict=True))
            )
        )
        self.end = _end(coarse[-1], ch_out)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """``[b, ch_z, h, w] -> [b, ch_out, 8 h, 8 w]`` (for four resolutions)."""
        return self.end(self.up(self.mid(self.conv_in(z))))


class FluxAutoencoder(nn.Module):
    """The autoencoder of FLUX.1; latents are scaled by ``scale_factor`` after ``shift_factor`` was subtracted.

    Source: https://github.com/black-forest-labs/flux (architecture and factors)
    """

    def __init__(
        self,
        img_shape: tuple[int, int, int],
        encoder: nn.Module,
        decoder: nn.Module,
        scale_factor: float,
        shift_factor: float,
    ) -> None:
        super().__init__()
        self.img_shape, self.scale_factor, self.shift_factor = img_shape, scale_factor, shift_factor
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Images ``[b, ch_in, h, w]``, in -1 to 1, to sampled latents ``[b, ch_z, h / 8, w / 8]``."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return self.scale_factor * (mean + torch.exp(0.5 * log_variance) * noise - self.shift_factor)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Latents ``[b, ch_z, h, w]`` to images ``[b, ch_out, 8 h, 8 w]``."""
        return self.decoder(z / self.scale_factor + self.shift_factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and decode: ``[b, ch_in, h, w] -> [b, ch_out, h, w]``."""
        return self.decode(self.encode(x))
