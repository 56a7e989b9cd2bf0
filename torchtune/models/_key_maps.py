"""Tables: how the keys of Hugging Face and Meta checkpoints correspond to ours, one ``KeyMap`` per layout.

``{}`` stands for a layer number. Where a checkpoint holds several of our tensors in one (``qkv_proj``), the pair lists them
in the order of their rows. Hugging Face's Llama code rotates the two halves of a head, ours rotates neighbouring pairs, so
rows of q and k are reordered within each head for the families in which ours does so (``permuted``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_LAYER, _HF_LAYER = "layers.{}.", "model.layers.{}."


@dataclass(frozen=True)
class KeyMap:
    """The correspondence of one checkpoint layout to ours.

    Args:
        name (str): what error messages call it.
        pairs (Mapping[str, tuple[str, ...]]): their key to ours; several of ours are concatenated by rows in theirs.
        permuted (frozenset[str]): layers (ours, without ``layers.{}.``) whose output rows are reordered per head.
        ignored (tuple[str, ...]): patterns (``fnmatch``) of their keys that are left out.
        peft (bool): whether adapters of this layout can be written for PEFT.
        stacked (frozenset[str]): their keys with a second ``{}``, the number of an expert: matrices that ours holds
            transposed and stacked in one tensor.
        interleaved (frozenset[str]): their keys whose parts alternate in the last dimension.
    """

    name: str
    pairs: Mapping[str, tuple[str, ...]]
    permuted: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    peft: bool = True
    stacked: frozenset[str] = frozenset()
    interleaved: frozenset[str] = frozenset()
    inverse: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        inverse = {ours: theirs for theirs, parts in self.pairs.items() for ours in parts}
        object.__setattr__(self, "inverse", inverse)

    @property
    def targets(self) -> dict[str, str]:
        """The linear layers' names: ours to theirs (``output_proj`` to ``o_proj``; parts of a fused one to its own)."""
        weights = {ours: theirs for ours, theirs in self.inverse.items() if ours.endswith(".weight")}
        return {ours.split(".")[-2]: theirs.split(".")[-2] for ours, theirs in weights.items()}


def _one(pairs: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {theirs: (ours,) for theirs, ours in pairs.items()}


def _layers(pairs: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {_HF_LAYER + theirs: (_LAYER + ours,) for theirs, ours in pairs.items()}


_EMBEDDING = _one({"model.embed_tokens.weight": "tok_embeddings.weight"})
_TOP = _one({"model.norm.weight": "norm.scale", "lm_head.weight": "output.weight"})
_QKV = _layers({f"self_attn.{p}.weight": f"attn.{p}.weight" for p in ("q_proj", "k_proj", "v_proj")})
_QKV_BIAS = _layers({f"self_attn.{p}.bias": f"attn.{p}.bias" for p in ("q_proj", "k_proj", "v_proj")})
_QK_NORM = _layers({f"self_attn.{n}.weight": f"attn.{n}.scale" for n in ("q_norm", "k_norm")})
_O = _layers({"self_attn.o_proj.weight": "attn.output_proj.weight"})
_MLP = _layers(
    {
        "mlp.gate_proj.weight": "mlp.w1.weight",
        "mlp.down_proj.weight": "mlp.w2.weight",
        "mlp.up_proj.weight": "mlp.w3.weight",
    }
)
_NORMS = _layers({"input_layernorm.weight": "sa_norm.scale", "post_attention_layernorm.weight": "mlp_norm.scale"})
_LLAMA = {**_EMBEDDING, **_QKV, **_O, **_MLP, **_NORMS, **_TOP}

_QK = frozenset({"attn.q_proj", "attn.k_proj"})
_INV_FREQ = ("*rotary_emb.inv_freq",)

_O_BIAS = _layers({"self_attn.o_proj.bias": "attn.output_proj.bias"})

GENERIC_HF = KeyMap("Llama", _LLAMA, _QK, _INV_FREQ)
REWARD_HF = KeyMap(
    "reward model",
    {**{k: v for k, v in _LLAMA.items() if k != "lm_head.weight"}, "score.weight": ("output.weight",)},
    _QK,
    (*_INV_FREQ, "score.bias"),
)
QWEN2_HF = KeyMap("Qwen2", {**_LLAMA, **_QKV_BIAS}, ignored=_INV_FREQ)
QWEN3_HF = KeyMap("Qwen3", {**_LLAMA, **_QKV_BIAS, **_QK_NORM}, ignored=_INV_FREQ)
_GEMMA = {
    **_EMBEDDING,
    **_QKV,
    **_O,
    **_MLP,
    **_layers(
        {
            "input_layernorm.weight": "sa_norm.scale",
            "post_attention_layernorm.weight": "sa_scale.scale",
            "pre_feedforward_layernorm.weight": "mlp_norm.scale",
            "post_feedforward_layernorm.weight": "mlp_scale.scale",
        }
    ),
    **_TOP,
}
GEMMA2_HF = KeyMap("Gemma 2", {**_GEMMA, "model.norm.weight": ("norm.rms_norm.scale",)}, _QK, _INV_FREQ)
GEMMA3_HF = KeyMap("Gemma 3", {**_GEMMA, **_QK_NORM}, ignored=_INV_FREQ)
# Llama's names, with the rows of q and k as they are.
SMOLLM3_HF = KeyMap("SmolLM 3", _LLAMA, ignored=_INV_FREQ)
GRANITE_HF = KeyMap("Granite", _LLAMA, ignored=_INV_FREQ)
GRANITE4_HF = KeyMap(
    "Granite 4",
    {
        **{theirs: ours for theirs, ours in _LLAMA.items() if theirs not in _MLP},
        _HF_LAYER + "shared_mlp.input_linear.weight": (_LAYER + "mlp.w1.weight", _LAYER + "mlp.w3.weight"),
        **_layers({"shared_mlp.output_linear.weight": "mlp.w2.weight"}),
    },
    ignored=_INV_FREQ,
)
_EXPERTS = {
    f"{_HF_LAYER}mlp.experts.{{}}.{name}_proj.weight": (f"{_LAYER}mlp.experts.{name}_proj",)
    for name in ("gate", "down", "up")
}
_ATTENTION = {**_EMBEDDING, **_QKV, **_O, **_NORMS, **_TOP}
QWEN3_MOE_HF = KeyMap(
    "Qwen3 MoE",
    {**_ATTENTION, **_QK_NORM, **_layers({"mlp.gate.weight": "mlp.router.gate.weight"}), **_EXPERTS},
    ignored=_INV_FREQ,
    stacked=frozenset(_EXPERTS),
)
_FUSED_EXPERTS = {
    f"{_HF_LAYER}mlp.experts.gate_up_proj{kind}": tuple(f"{_LAYER}mlp.experts.{n}{ours}" for n in ("gate", "up"))
    for kind, ours in (("", "_proj"), ("_bias", "_bias"))
}
GPT_OSS_HF = KeyMap(
    "gpt-oss",
    {
        **_ATTENTION,
        **_QKV_BIAS,
        **_O_BIAS,
        **_layers(
            {
                "self_attn.sinks": "attn.sinks",
                "mlp.router.weight": "mlp.router.gate.weight",
                "mlp.router.bias": "mlp.router.gate.bias",
                "mlp.experts.down_proj": "mlp.experts.down_proj",
                "mlp.experts.down_proj_bias": "mlp.experts.down_bias",
            }
        ),
        **_FUSED_EXPERTS,
    },
    ignored=_INV_FREQ,
    interleaved=frozenset(_FUSED_EXPERTS),
)
PHI3_HF = KeyMap(
    "Phi-3",
    {
        **_EMBEDDING,
        _HF_LAYER + "self_attn.qkv_proj.weight": tuple(
            _LAYER + f"attn.{p}.weight" for p in ("q_proj", "k_proj", "v_proj")
        ),
        **_O,
        _HF_LAYER + "mlp.gate_up_proj.weight": (_LAYER + "mlp.w1.weight", _LAYER + "mlp.w3.weight"),
        **_layers({"mlp.down_proj.weight": "mlp.w2.weight"}),
        **_NORMS,
        **_TOP,
    },
    ignored=_INV_FREQ,
)
GENERIC_META = KeyMap(
    "Meta",
    {
        **_one(
            {
                "tok_embeddings.weight": "tok_embeddings.weight",
                "norm.weight": "norm.scale",
                "output.weight": "output.weight",
            }
        ),
        **{
            _LAYER + theirs + ".weight": (_LAYER + ours,)
            for theirs, ours in {
                "attention.wq": "attn.q_proj.weight",
                "attention.wk": "attn.k_proj.weight",
                "attention.wv": "attn.v_proj.weight",
                "attention.wo": "attn.output_proj.weight",
                "feed_forward.w1": "mlp.w1.weight",
                "feed_forward.w2": "mlp.w2.weight",
                "feed_forward.w3": "mlp.w3.weight",
                "attention_norm": "sa_norm.scale",
                "ffn_norm": "mlp_norm.scale",
            }.items()
        },
    },
    ignored=("rope.freqs",),
)

# PEFT's names for the parts of an adapter, and for the layers.
PEFT_PREFIX = "base_model.model."
PEFT_SUFFIXES = {
    "lora_a.weight": "lora_A.weight",
    "lora_b.weight": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
}
PEFT_TARGETS = {
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "output_proj": "o_proj",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
    "output": "lm_head",
}
