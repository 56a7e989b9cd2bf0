"""gpt-oss: a mixture of experts with biases, attention sinks, and a window in every other layer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torchtune.models._builders import SizeRows, builder_names, component_builders, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models._family import LAYER_KEYS, Family
from torchtune.models._key_maps import ATTENTION, INV_FREQ, QKV_BIAS, KeyMap, by_layer
from torchtune.models._masks import windows_of
from torchtune.models._moe import mixture_of_experts
from torchtune.models._tokenizer import hf_tokenizer
from torchtune.models.gpt_oss._convert_weights import gpt_oss_plain
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


_GATE_UP = {
    f"model.layers.{{}}.mlp.experts.gate_up_proj{theirs}": tuple(
        f"layers.{{}}.mlp.experts.{name}{ours}" for name in ("gate", "up")
    )
    for theirs, ours in (("", "_proj"), ("_bias", "_bias"))
}
_LAYERS = {
    "self_attn.o_proj.bias": "attn.output_proj.bias",
    "self_attn.sinks": "attn.sinks",
    "mlp.router.weight": "mlp.router.gate.weight",
    "mlp.router.bias": "mlp.router.gate.bias",
    "mlp.experts.down_proj": "mlp.experts.down_proj",
    "mlp.experts.down_proj_bias": "mlp.experts.down_bias",
}
FAMILIES = (
    Family(
        "gpt_oss",
        gpt_oss_spec,
        KeyMap(
            "gpt-oss",
            {**ATTENTION, **QKV_BIAS, **by_layer(_LAYERS), **_GATE_UP},
            ignored=INV_FREQ,
            interleaved=frozenset(_GATE_UP),
        ),
        fixed={"attention_bias": True, "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
        extra={**LAYER_KEYS, "num_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"},
        defaults={"rope_theta": 150_000.0},
        prepare=gpt_oss_plain,
    ),
)
gpt_oss, lora_gpt_oss = component_builders("gpt_oss", "gpt-oss", gpt_oss_spec, module=__name__, source=SOURCE)
gpt_oss_tokenizer = hf_tokenizer("gpt_oss", "gpt-oss", module=__name__)

_size = SizeRows(
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
gpt_oss_20b, lora_gpt_oss_20b, qlora_gpt_oss_20b = _size("gpt_oss_20b", "20b", billions=20.9, num_layers=24)
gpt_oss_120b, lora_gpt_oss_120b, qlora_gpt_oss_120b = _size("gpt_oss_120b", "120b", billions=116.8, num_layers=36, num_experts=128)
# fmt: on

__all__ = builder_names(globals())
