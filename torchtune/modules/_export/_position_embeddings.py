"""Positional embeddings of tiles that ``torch.export`` can trace: CLIP's own are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from torchtune.models.clip._position_embeddings import TiledTokenPositionalEmbedding, TilePositionalEmbedding


def _replace(model: nn.Module, class_name: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace, in place, submodules of this class by what ``make`` gives, with their weights."""
    for name, child in model.named_children():
        if type(child).__name__ == class_name:
            with torch.device("meta"):
                new = make(child)
            new.load_state_dict(child.state_dict(), assign=True)
            setattr(model, name, new.train(child.training))
        else:
            _replace(child, class_name, make)
    return model


def replace_tile_positional_embedding(model: nn.Module) -> nn.Module:
    """The model, changed in place, with every ``TilePositionalEmbedding`` replaced by the one here.

    Args:
        model (nn.Module): the model.
    """

    def make(old: nn.Module) -> nn.Module:
        max_num_tiles, _, _, embed_dim = old.embedding.shape  # type: ignore[union-attr, misc]
        return TilePositionalEmbedding(max_num_tiles, embed_dim)

    return _replace(model, "TilePositionalEmbedding", make)


def replace_tiled_token_positional_embedding(model: nn.Module) -> nn.Module:
    """The model, changed in place, with every ``TiledTokenPositionalEmbedding`` replaced by the one here.

    Args:
        model (nn.Module): the model.
    """

    def make(old: nn.Module) -> nn.Module:
        max_num_tiles, _, tokens, embed_dim = old.global_token_positional_embedding.shape  # type: ignore[union-attr, misc]
        side = round((tokens - 1) ** 0.5)
        return TiledTokenPositionalEmbedding(max_num_tiles, embed_dim, tile_size=side, patch_size=1)

    return _replace(model, "TiledTokenPositionalEmbedding", make)
