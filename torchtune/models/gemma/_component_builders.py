"""Gemma: scaled embeddings that are the output layer too, GELU, and norms that multiply by ``1 + scale``."""

from __future__ import annotations

from functools import partial

from torch import nn

from torchtune.models._builders import component_builders
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.models._family import Family
from torchtune.models._key_maps import GENERIC_HF
from torchtune.models.gemma.gemma_norm_embedding import GemmaNormEmbeddings
from torchtune.models.gemma.rms_norm import GemmaRMSNorm
from torchtune.modules import RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2403.08295 (Gemma)"

gelu_tanh = partial(nn.GELU, approximate="tanh")


def gemma_spec(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    head_dim: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-6,
    rope_base: int = 10_000,
) -> DecoderSpec:
    """What a Gemma decoder of these sizes is made of."""
    return DecoderSpec(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        intermediate_dim=intermediate_dim,
        max_seq_len=max_seq_len,
        head_dim=head_dim,
        attn_dropout=attn_dropout,
        norm_eps=norm_eps,
        rope=partial(RotaryPositionalEmbeddings, base=rope_base),
        activation=gelu_tanh,
        norm=GemmaRMSNorm,
        embedding=GemmaNormEmbeddings,
        tie_word_embeddings=True,
    )


FAMILIES = (Family("gemma", gemma_spec, GENERIC_HF, activation="gelu_pytorch_tanh", always_tied=True),)
gemma, lora_gemma = component_builders("gemma", "Gemma", gemma_spec, module=__name__, source=SOURCE)
gemma_mlp = partial(gated_mlp, activation=gelu_tanh)
