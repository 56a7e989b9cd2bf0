"""The sizes of CLIP, and its tokenizer."""

from __future__ import annotations

from torchtune.models.clip._component_builders import clip_text_encoder
from torchtune.models.clip._text_encoder import CLIPTextEncoder
from torchtune.models.clip._tokenizer import CLIPTokenizer


def clip_tokenizer(path: str, max_seq_len: int = 77, truncate: bool = True) -> CLIPTokenizer:
    """The tokenizer of CLIP, texts to ids ``[b, max_seq_len]``; see :class:`CLIPTokenizer`."""
    return CLIPTokenizer(path, max_seq_len=max_seq_len, truncate=truncate)


def clip_text_vit_large_patch14() -> CLIPTextEncoder:
    """The text encoder of CLIP ViT-L/14, token ids ``[b, s]`` to vectors ``[b, 768]``.

    Source: https://huggingface.co/openai/clip-vit-large-patch14
    """
    return clip_text_encoder(embed_dim=768, num_heads=12, num_layers=12)
