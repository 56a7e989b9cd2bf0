"""Layers, attention, caches, adapters and losses."""

from __future__ import annotations

from typing import Any

from torchtune.modules.attention import MultiHeadAttention
from torchtune.modules.attention_utils import create_block_causal_mask, packed_block_causal_mask
from torchtune.modules.classifier import classifier_model
from torchtune.modules.common_utils import (
    delete_kv_caches,
    disable_kv_cache,
    local_kv_cache,
    reparametrize_as_dtype_state_dict_post_hook,
)
from torchtune.modules.embedding_utils import resize_token_embeddings
from torchtune.modules.feed_forward import FeedForward
from torchtune.modules.kv_cache import KVCache
from torchtune.modules.layer_dropout import LayerDropout, prepare_layer_dropout
from torchtune.modules.layer_norm import Fp32LayerNorm
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.position_embeddings import RotaryPositionalEmbeddings, VisionRotaryPositionalEmbeddings
from torchtune.modules.rms_norm import RMSNorm, rms_norm
from torchtune.modules.tanh_gate import TanhGate
from torchtune.modules.tied_linear import TiedLinear
from torchtune.modules.transformer import (
    TransformerCrossAttentionLayer,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)
from torchtune.modules.vision_transformer import VisionTransformer
from torchtune.modules.vq_embeddings import VectorQuantizedEmbeddings

__all__ = [
    "FeedForward",
    "Fp32LayerNorm",
    "FrozenNF4Linear",
    "KVCache",
    "LayerDropout",
    "MultiHeadAttention",
    "RMSNorm",
    "RotaryPositionalEmbeddings",
    "TanhGate",
    "TiedLinear",
    "TransformerCrossAttentionLayer",
    "TransformerDecoder",
    "TransformerSelfAttentionLayer",
    "VectorQuantizedEmbeddings",
    "VisionRotaryPositionalEmbeddings",
    "VisionTransformer",
    "classifier_model",
    "create_block_causal_mask",
    "delete_kv_caches",
    "disable_kv_cache",
    "local_kv_cache",
    "packed_block_causal_mask",
    "prepare_layer_dropout",
    "reparametrize_as_dtype_state_dict_post_hook",
    "resize_token_embeddings",
    "rms_norm",
]


def __getattr__(name: str) -> Any:
    from torchtune.modules._deprecated import find

    return find(__name__, name)
