"""Qwen2: biases on q, k, v; rotary halves apart. With ``q_norm`` and ``k_norm`` it is Qwen3."""

from __future__ import annotations

from dataclasses import replace

from torchtune.models._builders import component_builders, lora_attention_builder, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models._family import Family
from torchtune.models._key_maps import QWEN2_HF
from torchtune.models._rope import Qwen2RotaryPositionalEmbeddings

SIZES = (
    "vocab_size num_layers num_heads num_kv_heads embed_dim intermediate_dim max_seq_len head_dim attn_dropout norm_eps "
    "rope_base tie_word_embeddings q_proj_bias k_proj_bias v_proj_bias q_norm k_norm"
)
SOURCE = "https://arxiv.org/abs/2407.10671 (Qwen2 Technical Report)"


@spec_function(SIZES, rope=Qwen2RotaryPositionalEmbeddings, norm_eps=1e-5, rope_base=1_000_000.0)
def qwen2_spec(
    spec: DecoderSpec,
    q_proj_bias: bool = True,
    k_proj_bias: bool = True,
    v_proj_bias: bool = True,
    q_norm: bool = False,
    k_norm: bool = False,
) -> DecoderSpec:
    """What a Qwen2 decoder of these sizes is made of."""
    biases = (q_proj_bias, k_proj_bias, v_proj_bias)
    return replace(spec, qkv_bias=biases, qk_norm=(q_norm, k_norm), nf4_frozen=frozenset())


FAMILIES = (Family("qwen2", qwen2_spec, QWEN2_HF, fixed={"use_sliding_window": False}),)
qwen2, lora_qwen2 = component_builders("qwen2", "Qwen2", qwen2_spec, module=__name__, source=SOURCE)
lora_qwen2_self_attention = lora_attention_builder("lora_qwen2_self_attention", "Qwen2", qwen2_spec, module=__name__)
