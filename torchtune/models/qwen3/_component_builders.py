"""Qwen3: Qwen2 without biases, with q and k normalized per head."""

from __future__ import annotations

from torchtune.models._builders import component_builders
from torchtune.models._dense import DecoderSpec
from torchtune.models._family import Family
from torchtune.models._key_maps import QWEN3_HF
from torchtune.models.qwen2._component_builders import qwen2_spec


def qwen3_spec(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    head_dim: int | None = None,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-6,
    rope_base: float = 1_000_000.0,
    tie_word_embeddings: bool = False,
    q_proj_bias: bool = False,
    k_proj_bias: bool = False,
    v_proj_bias: bool = False,
    q_norm: bool = True,
    k_norm: bool = True,
) -> DecoderSpec:
    """What a Qwen3 decoder of these sizes is made of."""
    return qwen2_spec(**locals())


FAMILIES = (Family("qwen3", qwen3_spec, QWEN3_HF, fixed={"use_sliding_window": False, "attention_bias": False}),)
qwen3, lora_qwen3 = component_builders(
    "qwen3", "Qwen3", qwen3_spec, module=__name__, source="https://arxiv.org/abs/2505.09388 (Qwen3 Technical Report)"
)
