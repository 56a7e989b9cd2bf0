"""CLIP: encoders of texts and images, and their parts."""

from torchtune.models.clip._component_builders import clip_mlp, clip_text_encoder, clip_vision_encoder
from torchtune.models.clip._model_builders import clip_text_vit_large_patch14, clip_tokenizer
from torchtune.models.clip._position_embeddings import (
    TiledTokenPositionalEmbedding,
    TilePositionalEmbedding,
    TokenPositionalEmbedding,
)
from torchtune.models.clip._transform import CLIPImageTransform

__all__ = [
    "CLIPImageTransform",
    "TilePositionalEmbedding",
    "TiledTokenPositionalEmbedding",
    "TokenPositionalEmbedding",
    "clip_mlp",
    "clip_text_encoder",
    "clip_text_vit_large_patch14",
    "clip_tokenizer",
    "clip_vision_encoder",
]
