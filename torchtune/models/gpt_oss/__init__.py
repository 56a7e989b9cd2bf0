"""gpt-oss: a mixture of experts with biases, attention sinks, and a window in every other layer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torchtune.models._builders import SizeRows, component_builders, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models._masks import windows_of
from torchtune.models._moe import mixture_of_experts
from torchtune.models._tokenizer import hf_tokenizer
from torchtune.modules.moe import clamped_swiglu

SOURCE = "https://arxiv.org/abs/2508.10925 (gpt-oss model card)"
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@spec_function(norm_eps=1e-5, rope_base=150_000.0, rope_scaling=_YARN)
def gpt_oss_spec(
    spec: DecoderSpec,
    num_experts: int = 32,
    experts_per_token: int = 4,
    sliding_window: int | None = 128,
    layer_types: list[str] | None = None,
) -> DecoderSpec:
    """What a gpt-oss decoder of these sizes is made of; ``intermediate_dim`` is that of one expert."""
    kinds = layer_types or [("sliding_attention", "full_attention")[index % 2] for index in range(spec.num_layers)]
    experts = partial(
        mixture_of_experts, num_experts=num_experts, experts_per_token=experts_per_token, bias=True, glu=clamped_swiglu
    )
    return replace(
        spec,
        qkv_bias=(True, True, True),
        output_bias=True,
        attention={"sinks": True},
        mask_mod=windows_of(sliding_window, kinds),
        feed_forward=experts,
    )


gpt_oss, lora_gpt_oss = component_builders("gpt_oss", "gpt-oss", gpt_oss_spec, module=__name__, source=SOURCE)
gpt_oss_tokenizer = hf_tokenizer("gpt_oss", "gpt-oss", module=__name__)

SIZES = _size = SizeRows(
    "gpt-oss",
    gpt_oss_spec,
    module=__name__,
    source=SOURCE,
    vocab_size=201_088,
    num_heads=64,
    num_kv_heads=8,
    head_dim=64,
    embed_dim=2880,
    intermediate_dim=2880,
    max_seq_len=131_072,
)

# fmt: off
gpt_oss_20b, lora_gpt_oss_20b, qlora_gpt_oss_20b = _size("gpt_oss_20b", "20b", num_layers=24)
gpt_oss_120b, lora_gpt_oss_120b, qlora_gpt_oss_120b = _size("gpt_oss_120b", "120b", num_layers=36, num_experts=128)
# fmt: on

__all__ = [
    "gpt_oss",
    "gpt_oss_120b",
    "gpt_oss_20b",
    "gpt_oss_tokenizer",
    "lora_gpt_oss",
    "lora_gpt_oss_120b",
    "lora_gpt_oss_20b",
    "qlora_gpt_oss_120b",
    "qlora_gpt_oss_20b",
]
