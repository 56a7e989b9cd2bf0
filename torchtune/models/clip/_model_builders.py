"""The sizes of CLIP, and its tokenizer."""

from __future__ import annotations

from torchtune.models.clip._component_builders import clip_text_encoder
from torchtune.models.clip._text_encoder import CLIPTextEncoder
from torchtune.models.clip._tokenizer import CLIPTokenizer


def clip_tokenizer(path: str, max_seq_len: int = 77, truncate: bool = True) -> CLIPTokenizer:
    """Build the tokenizer of CLIP.

    Args:
        path: the ``merges.txt``.
        max_seq_len: tokens that a text is filled up to.
        truncate: True cuts longer texts.

    Returns:
        CLIPTokenizer: texts to ids ``[b, max_seq_len]``.
    """
    return CLIPTokenizer(path, max_seq_len=max_seq_len, truncate=truncate)


def clip_text_vit_large_patch14() -> CLIPTextEncoder:
    """Build the text encoder of CLIP ViT-L/14 (https://huggingface.co/openai/clip-vit-large-patch14).

    Returns:
        CLIPTextEncoder: token ids ``[b, s]`` to vectors ``[b, 768]``.
    """
    return clip_text_encoder(embed_dim=768, num_heads=12, num_layers=12)
