"""Vision transformer over tiles of images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from torchtune.modules.layer_norm import Fp32LayerNorm


class VisionTransformer(nn.Module):
    """Encode images that are cut into tiles, and tiles into patches (ViT, https://arxiv.org/abs/2010.11929).

    Args:
        patch_size (int): side of a patch in pixels.
        tile_size (int): side of a tile in pixels.
        num_layers (int): number of layers.
        embed_dim (int): size ``d`` of a patch's vector.
        layer (nn.Module): one transformer layer; it is copied.
        token_pos_embedding (nn.Module): of the patches in a tile; called with the tokens and ``aspect_ratio``.
        pre_tile_pos_embed (nn.Module | None): of tiles, before the layers.
        post_tile_pos_embed (nn.Module | None): of tiles, after the layers.
        cls_projection (nn.Module | None): reduces each tile to its CLS token.
        out_indices (list[int] | None): layers whose input is returned too.
        in_channels (int): channels of an image.
        append_cls_token (bool): put the CLS token after the patches, not before them.

    Raises:
        ValueError: for sizes that aren't positive, or indexes of layers that don't exist.
    """

    def __init__(
        self,
        patch_size: int,
        tile_size: int,
        num_layers: int,
        embed_dim: int,
        layer: nn.Module,
        token_pos_embedding: nn.Module,
        pre_tile_pos_embed: nn.Module | None = None,
        post_tile_pos_embed: nn.Module | None = None,
        cls_projection: nn.Module | None = None,
        out_indices: list[int] | None = None,
        in_channels: int = 3,
        append_cls_token: bool = False,
    ) -> None:
        super().__init__()
        if tile_size <= 0 or patch_size <= 0:
            raise ValueError(f"tile_size ({tile_size}) and patch_size ({patch_size}) must be positive")
        if out_indices and not all(0 <= index < num_layers for index in out_indices):
            raise ValueError(f"out_indices {out_indices} must be layers of 0 to {num_layers - 1}")
        self.patches_per_tile = (tile_size // patch_size) ** 2
        self.out_indices = out_indices or []
        self.pre_tile_pos_embed = pre_tile_pos_embed
        self.post_tile_pos_embed = post_tile_pos_embed
        self.token_pos_embedding = token_pos_embedding
        self.cls_projection = cls_projection
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.conv = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size, bias=False)
        self.ln_post = Fp32LayerNorm(embed_dim)
        self.ln_pre = Fp32LayerNorm(embed_dim)
        self.cls_token_embedding = CLSEmbedding(embed_dim, append_cls_token=append_cls_token)

    def get_image_tokens_per_tile(self) -> int:
        """Number of tokens of one tile, the CLS token included."""
        return self.patches_per_tile + 1

    def forward(self, images: Tensor, aspect_ratio: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encode images.

        Args:
            images (Tensor): tiles ``[b, n_imgs, n_tiles, c, tile_size, tile_size]``, padded to the same number.
            aspect_ratio (Tensor | None): tiles of each image as (rows, columns), ``[b, n_imgs, 2]``; None is one tile.

        Returns:
            tuple[Tensor, list[Tensor]]: ``[b, n_imgs, n_tiles, n_tokens, d]`` (``n_tokens`` is 1 with
            ``cls_projection``), and the inputs of the layers ``out_indices`` in the same form.

        Raises:
            ValueError: if tiles need ``aspect_ratio`` and it is missing.
        """
        batch, n_imgs, n_tiles, *tile = images.shape
        if aspect_ratio is None:
            aspect_ratio = torch.ones((batch * n_imgs, 2), dtype=torch.int, device=images.device)
            if n_tiles > 1:
                raise ValueError(
                    f"aspect_ratio was not provided, but n_tiles ({n_tiles}) > 1. It says where each tile belongs"
                )
        aspect_ratio = aspect_ratio.reshape(batch * n_imgs, 2)
        x = (
            self.conv(images.reshape(batch * n_imgs * n_tiles, *tile).to(self.conv.weight.dtype))
            .flatten(2)
            .transpose(1, 2)
        )
        x = x.reshape(batch * n_imgs, n_tiles, self.patches_per_tile, -1)
        if self.pre_tile_pos_embed is not None:
            x = self.pre_tile_pos_embed(x, aspect_ratio)
        x = self.token_pos_embedding(self.cls_token_embedding(x), aspect_ratio)
        per_tile = x.shape[1:]
        per_image = (batch, n_imgs, *per_tile)
        x = self.ln_pre(x).flatten(1, 2)
        hidden_states = []
        for index, layer in enumerate(self.layers):
            if index in self.out_indices:
                hidden_states.append(x.reshape(per_image))
            x = layer(x)
        x = self.ln_post(x)
        if self.post_tile_pos_embed is not None:
            x = self.post_tile_pos_embed(x.reshape(batch * n_imgs, *per_tile), aspect_ratio)
        x = x.reshape(per_image)
        if self.cls_projection is not None:
            x = self.cls_projection(x)
        return x, hidden_states


class CLSEmbedding(nn.Module):
    """Add a learned token to each tile.

    Args:
        embed_dim (int): size ``d`` of a token.
        append_cls_token (bool): put it last, not first.
    """

    def __init__(self, embed_dim: int, append_cls_token: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(embed_dim**-0.5 * torch.randn(embed_dim))
        self.append_cls_token = append_cls_token

    def forward(self, x: Tensor) -> Tensor:
        """Add the token: ``[b, n_tiles, n_tokens, d] -> [b, n_tiles, n_tokens + 1, d]``."""
        token = self.weight.to(x.dtype).expand(*x.shape[:2], 1, -1)
        return torch.cat([x, token] if self.append_cls_token else [token, x], dim=2)


class CLSProjection(nn.Module):
    """Project the CLS token, the first of each tile, and drop the others.

    Args:
        embed_dim (int): size ``d`` of a token.
        cls_output_dim (int): size of the result.
    """

    def __init__(self, embed_dim: int, cls_output_dim: int) -> None:
        super().__init__()
        self.cls_output_dim = cls_output_dim
        self.weight = nn.Parameter(embed_dim**-0.5 * torch.randn(embed_dim, cls_output_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Project the CLS tokens: ``[..., n_tiles, n_tokens, d] -> [..., n_tiles, 1, cls_output_dim]``."""
        return x[..., :1, :] @ self.weight
