"""The sizes of CLIP."""

from __future__ import annotations

from torchtune.models.clip._component_builders import clip_text_encoder
from torchtune.models.clip._text_encoder import CLIPTextEncoder


def clip_text_vit_large_patch14() -> CLIPTextEncoder:
    """Build the text encoder of CLIP ViT-L/14 (https://huggingface.co/openai/clip-vit-large-patch14).

    Returns:
        CLIPTextEncoder: token ids ``[b, s]`` to vectors ``[b, 768]``.
    """
    return clip_text_encoder(embed_dim=768, num_heads=12, num_layers=12)
