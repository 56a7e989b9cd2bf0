"""Qwen3 with a mixture of experts in every layer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torchtune.models._builders import SizeRows, builder_names, component_builders, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models._family import Family
from torchtune.models._key_maps import ATTENTION, INV_FREQ, QK_NORM, KeyMap, by_layer
from torchtune.models._moe import mixture_of_experts
from torchtune.models.qwen3 import Qwen3Tokenizer, qwen3_tokenizer
from torchtune.modules.moe import SoftmaxTopKRouter

SOURCE = "https://arxiv.org/abs/2505.09388 (Qwen3 Technical Report) and the model cards"


@spec_function(rope_base=1_000_000.0)
def qwen3_moe_spec(
    spec: DecoderSpec, num_experts: int = 128, experts_per_token: int = 8, normalize_experts: bool = True
) -> DecoderSpec:
    """What a Qwen3 decoder with experts of these sizes is made of; ``intermediate_dim`` is that of one expert."""
    router = partial(SoftmaxTopKRouter, normalize=normalize_experts)
    experts = partial(mixture_of_experts, num_experts=num_experts, experts_per_token=experts_per_token, router=router)
    return replace(spec, qk_norm=(True, True), feed_forward=experts)


_EXPERTS = {
    f"model.layers.{{}}.mlp.experts.{{}}.{name}_proj.weight": (f"layers.{{}}.mlp.experts.{name}_proj",)
    for name in ("gate", "down", "up")
}
FAMILIES = (
    Family(
        "qwen3_moe",
        qwen3_moe_spec,
        KeyMap(
            "Qwen3 MoE",
            {**ATTENTION, **QK_NORM, **by_layer({"mlp.gate.weight": "mlp.router.gate.weight"}), **_EXPERTS},
            ignored=INV_FREQ,
            stacked=frozenset(_EXPERTS),
        ),
        fixed={"use_sliding_window": False, "attention_bias": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
        extra={"experts_per_token": "num_experts_per_tok", "normalize_experts": "norm_topk_prob"},
        defaults={"num_experts_per_tok": 8, "norm_topk_prob": False},
        # transformers 5 writes the second name
        reads=lambda config: {"num_experts": config.get("num_experts") or config["num_local_experts"]},
        width="moe_intermediate_size",
    ),
)
qwen3_moe, lora_qwen3_moe = component_builders("qwen3_moe", "Qwen3 MoE", qwen3_moe_spec, module=__name__, source=SOURCE)

_size = SizeRows(
    "Qwen3 MoE", qwen3_moe_spec, module=__name__, source=SOURCE, vocab_size=151_936, head_dim=128, num_kv_heads=4
)

# fmt: off
qwen3_moe_30b_a3b, lora_qwen3_moe_30b_a3b, qlora_qwen3_moe_30b_a3b = _size("qwen3_moe_30b_a3b", "30B-A3B", billions=30.5, num_layers=48, num_heads=32, embed_dim=2048, intermediate_dim=768, max_seq_len=40_960)
qwen3_moe_235b_a22b, lora_qwen3_moe_235b_a22b, qlora_qwen3_moe_235b_a22b = _size("qwen3_moe_235b_a22b", "235B-A22B", billions=235.1, num_layers=94, num_heads=64, embed_dim=4096, intermediate_dim=1536, max_seq_len=40_960)
qwen3_moe_30b_a3b_2507, lora_qwen3_moe_30b_a3b_2507, qlora_qwen3_moe_30b_a3b_2507 = _size("qwen3_moe_30b_a3b_2507", "30B-A3B, version 2507", billions=30.5, num_layers=48, num_heads=32, embed_dim=2048, intermediate_dim=768, max_seq_len=262_144, rope_base=10_000_000.0)
qwen3_moe_235b_a22b_2507, lora_qwen3_moe_235b_a22b_2507, qlora_qwen3_moe_235b_a22b_2507 = _size("qwen3_moe_235b_a22b_2507", "235B-A22B, version 2507", billions=235.1, num_layers=94, num_heads=64, embed_dim=4096, intermediate_dim=1536, max_seq_len=262_144, rope_base=5_000_000.0)
# fmt: on

__all__ = [*builder_names(globals()), "Qwen3Tokenizer", "qwen3_tokenizer"]
