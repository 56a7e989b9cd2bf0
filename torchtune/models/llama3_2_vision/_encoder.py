"""The image encoder of Llama 3.2 Vision: CLIP on tiles, then a few gated layers and a projection.

The released models were trained with every image padded to the full number of tiles and every tile to a multiple of eight tokens.
Padding doesn't see padding, but real tokens do see it, so it is part of the function that the weights compute.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules import VisionTransformer

_MULTIPLE = 8


class Llama3VisionTransformer(VisionTransformer):
    """CLIP's image encoder as Llama 3.2 Vision uses it; arguments are those of ``VisionTransformer``."""

    def encode_padded(self, images: Tensor, aspect_ratio: Tensor | None) -> tuple[Tensor, list[Tensor], Tensor]:
        """Encode images ``[b, i, t, c, w, h]`` with their padding; several tiles need ``aspect_ratio [b, i, 2]``.

        Returns:
            tokens ``[b * i, t', e', d]`` with all tiles and tokens that padding adds, hidden states of the same shape, and the
            attention mask ``[b * i, t' * e', t' * e']``.
        """
        batch, num_images, num_tiles, *tile = images.shape
        if aspect_ratio is None:
            if num_tiles > 1:
                raise ValueError(f"images have {num_tiles} tiles each: aspect_ratio must say how they are laid out")
            aspect_ratio = torch.ones(batch, num_images, 2, dtype=torch.int, device=images.device)
        ratios = aspect_ratio.reshape(batch * num_images, 2)
        tiles = max(num_tiles, self._max_num_tiles())
        x = images.reshape(batch * num_images, num_tiles, *tile).to(self.conv.weight.dtype)
        x = F.pad(x, (0, 0) * len(tile) + (0, tiles - num_tiles)).flatten(0, 1)
        x = self.conv(x).flatten(2).transpose(1, 2).unflatten(0, (-1, tiles))
        if self.pre_tile_pos_embed is not None:
            x = self.pre_tile_pos_embed(x, ratios)
        x = self.ln_pre(self.token_pos_embedding(self.cls_token_embedding(x), ratios))
        tokens = x.shape[2]
        x = F.pad(x, (0, 0, 0, -tokens % _MULTIPLE))
        shape = x.shape
        mask = self._mask(ratios, tiles, tokens, shape[2])
        x, hidden_states = x.flatten(1, 2), []
        for index, layer in enumerate(self.layers):
            if index in (self.out_indices or ()):
                hidden_states.append(x.view(shape))
            x = layer(x, mask=mask)
        x = self.ln_post(x).view(shape)
        if self.post_tile_pos_embed is not None:
            x = self.post_tile_pos_embed(x, ratios)
        return x, hidden_states, mask

    def tokens_per_tile(self) -> int:
        """Tokens of one tile without padding."""
        return self.get_image_tokens_per_tile()

    def _max_num_tiles(self) -> int:
        embedding = getattr(self.token_pos_embedding, "global_token_positional_embedding", None)
        return 1 if embedding is None else embedding.shape[0]

    @staticmethod
    def _mask(ratios: Tensor, tiles: int, tokens: int, padded: int) -> Tensor:
        """Padding doesn't see padding; all else sees all."""
        real_tile = torch.arange(tiles, device=ratios.device) < ratios.prod(-1, keepdim=True)
        real_token = torch.arange(padded, device=ratios.device) < tokens
        real = (real_tile[:, :, None] & real_token).flatten(1)
        return real[:, :, None] | real[:, None, :]


class Llama3VisionProjectionHead(nn.Module):
    """Layers over all tokens of an image, whose output is joined with CLIP's hidden states and projected.

    Args:
        layers (nn.Module): the layers, as an iterable module.
        output (nn.Module): ``d * (num_hidden_inputs + 1) -> d_decoder``.
        num_hidden_inputs (int): hidden states of CLIP that are joined.
    """

    def __init__(self, layers: nn.Module, output: nn.Module, num_hidden_inputs: int = 0) -> None:
        super().__init__()
        self.layers = layers
        self.output = output
        self.num_hidden = num_hidden_inputs

    def forward(self, x: Tensor, hidden_states: list[Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """The image tokens for the decoder, ``[b, i * t * e, d_decoder]``.

        Args:
            x (Tensor): CLIP's output ``[b, i, t, e, d]``: i images of t tiles with e tokens each.
            hidden_states (list[Tensor] | None): CLIP's hidden states, each ``[b, i, t, e, d]``.
            mask (Tensor | None): which tokens of an image see which, ``[b * i, t * e, t * e]``.

        Raises:
            ValueError: if there are more or fewer hidden states than the projection joins.
        """
        batch, images, tiles, tokens, dim = x.shape
        x = x.reshape(batch * images, tiles * tokens, dim)
        for layer in self.layers:  # type: ignore[attr-defined]
            x = layer(x, mask=mask)
        x = x.view(batch, images, tiles, tokens, dim)
        if self.num_hidden > 0:
            if not hidden_states or len(hidden_states) != self.num_hidden:
                raise ValueError(
                    f"The projection joins {self.num_hidden} hidden states, but got {len(hidden_states or [])}"
                )
            # Channel by channel, so do the released weights have it.
            x = torch.cat([x, torch.stack(hidden_states, dim=-1).flatten(-2)], dim=-1)
        return self.output(x).reshape(batch, images * tiles * tokens, -1)


class Llama3VisionEncoder(nn.Module):
    """CLIP and the projection after it.

    Args:
        clip (nn.Module): images to tokens and hidden states.
        projection_head (nn.Module): tokens and hidden states to the decoder's size.
    """

    def __init__(self, clip: nn.Module, projection_head: nn.Module) -> None:
        super().__init__()
        self.clip = clip
        self.projection = projection_head

    def forward(self, images: Tensor, aspect_ratio: Tensor | None = None) -> Tensor:
        """The image tokens for the decoder, ``[b, i * t * e, d_decoder]``, e per tile.

        Args:
            images (Tensor): ``[b, i, t, c, w, h]``: i images of t tiles.
            aspect_ratio (Tensor | None): tiles in height and width of each image, ``[b, i, 2]``.
        """
        if not isinstance(self.clip, Llama3VisionTransformer):
            return self.projection(*self.clip(images, aspect_ratio))
        batch, num_images, num_tiles = images.shape[:3]
        x, hidden_states, mask = self.clip.encode_padded(images, aspect_ratio)
        shape = (batch, num_images, *x.shape[1:])
        x = self.projection(x.view(shape), [state.view(shape) for state in hidden_states], mask=mask)
        x = x.view(batch, num_images, *shape[2:4], -1)[:, :, :num_tiles, : self.clip.tokens_per_tile()]
        return x.flatten(1, 3)
