"""SmolLM 2: Llama layers with tied embeddings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torchtune.models._builders import component_builders
from torchtune.models._dense import DecoderSpec
from torchtune.models.llama3_2._component_builders import llama3_2_spec
from torchtune.modules import RotaryPositionalEmbeddings

SOURCE = "https://arxiv.org/abs/2502.02737 (SmolLM2)"


def smollm2_spec(
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int = 8192,
    vocab_size: int = 49_152,
    attn_dropout: float = 0.0,
    rope_base: int = 100_000,
    norm_eps: float = 1e-5,
    scale_factor: int | None = 32,
    tie_word_embeddings: bool = True,
) -> DecoderSpec:
    """What a SmolLM 2 decoder of these sizes is made of; ``scale_factor`` None is plain RoPE, as in the released models."""
    sizes = locals()
    spec = llama3_2_spec(**{**sizes, "scale_factor": scale_factor or 1})
    return spec if scale_factor else replace(spec, rope=partial(RotaryPositionalEmbeddings, base=rope_base))


smollm2, lora_smollm2 = component_builders("smollm2", "SmolLM 2", smollm2_spec, module=__name__, source=SOURCE)
