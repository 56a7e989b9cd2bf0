"""Granite 4 without Mamba layers (micro, 1b, 350m): Llama's layers and four factors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from torchtune.models._builders import SizeRows, builder_names, component_builders, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models._family import Family, HFConfig
from torchtune.models._key_maps import ATTENTION, INV_FREQ, LLAMA, KeyMap
from torchtune.models._tokenizer import hf_tokenizer
from torchtune.modules import RMSNorm

SOURCE = "https://huggingface.co/ibm-granite/granite-4.0-micro (model card, config.json)"


class ScaledEmbedding(nn.Embedding):
    """Token embedding times ``factor``."""

    def __init__(self, num_embeddings: int, embedding_dim: int, factor: float, **kwargs: Any) -> None:
        super().__init__(num_embeddings, embedding_dim, **kwargs)
        self.factor = factor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Token ids ``[b, s]`` to ``[b, s, d]``."""
        return super().forward(input) * self.factor


class DividedRMSNorm(RMSNorm):
    """The last norm, divided by ``divisor``, so that the logits are."""

    def __init__(self, dim: int, eps: float = 1e-5, divisor: float = 1.0) -> None:
        super().__init__(dim, eps)
        self.divisor = divisor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., dim] -> [..., dim]``."""
        return super().forward(x) / self.divisor


@spec_function(norm_eps=1e-5, rope_base=10_000_000.0, tie_word_embeddings=True)
def granite4_spec(
    spec: DecoderSpec,
    embedding_multiplier: float = 1.0,
    residual_multiplier: float = 1.0,
    attention_multiplier: float = 1.0,
    logits_scaling: float = 1.0,
) -> DecoderSpec:
    """What a Granite decoder of these sizes is made of."""
    return replace(
        spec,
        embedding=partial(ScaledEmbedding, factor=embedding_multiplier),
        residual_scale=residual_multiplier,
        attention={"softmax_scale": attention_multiplier},
        final_norm=partial(DividedRMSNorm, divisor=logits_scaling),
    )


def _only_attention(config: HFConfig) -> dict[str, Any]:
    """No arguments, but an error where a layer is no attention layer (Granite 4 with Mamba)."""
    kinds = config.get("layer_types") or config.get("layers_block_type") or ["mamba"]
    others = sorted(set(kinds) - {"attention", "full_attention"})
    if others:
        raise ValueError(
            f"config.json has layers of type {others}; for this model_type only attention layers are built"
        )
    return {}


_MULTIPLIERS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
_shared = partial(
    Family, extra={name: name for name in _MULTIPLIERS}, defaults=dict.fromkeys(_MULTIPLIERS, 1.0), spec=granite4_spec
)
_FUSED_MLP = {
    "model.layers.{}.shared_mlp.input_linear.weight": ("layers.{}.mlp.w1.weight", "layers.{}.mlp.w3.weight"),
    "model.layers.{}.shared_mlp.output_linear.weight": ("layers.{}.mlp.w2.weight",),
}
FAMILIES = (
    _shared(
        "granite", hf=KeyMap("Granite", LLAMA, ignored=INV_FREQ), fixed={"attention_bias": False, "mlp_bias": False}
    ),
    _shared(
        "granitemoehybrid",
        hf=KeyMap("Granite 4", {**ATTENTION, **_FUSED_MLP}, ignored=INV_FREQ),
        fixed={"attention_bias": False, "num_local_experts": 0, "position_embedding_type": "rope"},
        reads=_only_attention,
        width="shared_intermediate_size",
    ),
)
granite4, lora_granite4 = component_builders("granite4", "Granite 4", granite4_spec, module=__name__, source=SOURCE)
granite4_tokenizer = hf_tokenizer("granite4", "Granite 4", module=__name__)

_size = SizeRows("Granite 4", granite4_spec, module=__name__, source=SOURCE, vocab_size=100_352)

# fmt: off
granite4_micro, lora_granite4_micro, qlora_granite4_micro = _size("granite4_micro", "micro (3B)", billions=3.4, num_layers=40, num_heads=40, num_kv_heads=8, embed_dim=2560, intermediate_dim=8192, max_seq_len=131_072, embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.015625, logits_scaling=10.0)
# fmt: on

__all__ = builder_names(globals())
