"""Gemma: scaled embeddings that are the output layer too, GELU, and norms that multiply by ``1 + scale``."""

from __future__ import annotations

from functools import partial
from inspect import Parameter
from typing import Any

from torch import nn

from torchtune.models._builders import component_builders, spec_function
from torchtune.models._dense import DecoderSpec, gated_mlp
from torchtune.models._family import Family
from torchtune.models._key_maps import GENERIC_HF
from torchtune.models.gemma.gemma_norm_embedding import GemmaNormEmbeddings
from torchtune.models.gemma.rms_norm import GemmaRMSNorm
from torchtune.modules import RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2403.08295 (Gemma)"

gelu_tanh = partial(nn.GELU, approximate="tanh")
SIZES = (
    "vocab_size num_layers num_heads head_dim num_kv_heads embed_dim intermediate_dim max_seq_len attn_dropout norm_eps "
    "rope_base"
)
LAYERS: dict[str, Any] = {
    "head_dim": Parameter.empty,
    "rope": RotaryPositionalEmbeddings,
    "rope_base": 10_000,
    "activation": gelu_tanh,
    "norm": GemmaRMSNorm,
    "embedding": GemmaNormEmbeddings,
    "tie_word_embeddings": True,
}


@spec_function(SIZES, **LAYERS)
def gemma_spec(spec: DecoderSpec) -> DecoderSpec:
    """What a Gemma decoder of these sizes is made of."""
    return spec


FAMILIES = (Family("gemma", gemma_spec, GENERIC_HF, activation="gelu_pytorch_tanh", always_tied=True),)
gemma, lora_gemma = component_builders("gemma", "Gemma", gemma_spec, module=__name__, source=SOURCE)
gemma_mlp = partial(gated_mlp, activation=gelu_tanh)
