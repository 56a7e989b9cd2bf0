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
    """The correspondence of one checkpoint layout to ours."""

    name: str
    pairs: Mapping[str, tuple[str, ...]]  # their key to ours; several of ours are concatenated by rows in theirs
    permuted: frozenset[str] = frozenset()  # ours, without layers.{}., whose output rows are reordered per head
    ignored: tuple[str, ...] = ()  # patterns (fnmatch) of their keys that are left out
    peft: bool = True  # whether adapters of this layout can be written for PEFT
    # Their keys with a second {}, the number of an expert: matrices that ours holds transposed and stacked in one tensor.
    stacked: frozenset[str] = frozenset()
    interleaved: frozenset[str] = frozenset()  # their keys whose parts alternate in the last dimension
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


def by_layer(pairs: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Keys of a layer, theirs to ours, as a key map has them."""
    return {_HF_LAYER + theirs: (_LAYER + ours,) for theirs, ours in pairs.items()}


def of_layer(layout: KeyMap) -> dict[str, str]:
    """The keys of a layout's layers, theirs to ours, without the layers' numbers."""
    inner = {theirs: ours for theirs, (ours,) in layout.pairs.items() if ours.startswith(_LAYER)}
    return {theirs.partition("layers.{}.")[2]: ours.removeprefix(_LAYER) for theirs, ours in inner.items()}


def kinds(pairs: Mapping[str, str]) -> dict[str, str]:
    """The keys of modules that have a weight and a bias."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in pairs.items() for kind in ("weight", "bias")}


_EMBEDDING = _one({"model.embed_tokens.weight": "tok_embeddings.weight"})
_TOP = _one({"model.norm.weight": "norm.scale", "lm_head.weight": "output.weight"})
_QKV = by_layer({f"self_attn.{p}.weight": f"attn.{p}.weight" for p in ("q_proj", "k_proj", "v_proj")})
QKV_BIAS = by_layer({f"self_attn.{p}.bias": f"attn.{p}.bias" for p in ("q_proj", "k_proj", "v_proj")})
QK_NORM = by_layer({f"self_attn.{n}.weight": f"attn.{n}.scale" for n in ("q_norm", "k_norm")})
_O = by_layer({"self_attn.o_proj.weight": "attn.output_proj.weight"})
_MLP = by_layer(
    {
        "mlp.gate_proj.weight": "mlp.w1.weight",
        "mlp.down_proj.weight": "mlp.w2.weight",
        "mlp.up_proj.weight": "mlp.w3.weight",
    }
)
_NORMS = by_layer({"input_layernorm.weight": "sa_norm.scale", "post_attention_layernorm.weight": "mlp_norm.scale"})
# All but the feed-forward layers, and with Llama's.
ATTENTION = {**_EMBEDDING, **_QKV, **_O, **_NORMS, **_TOP}
LLAMA = {**ATTENTION, **_MLP}

_QK = frozenset({"attn.q_proj", "attn.k_proj"})
INV_FREQ = ("*rotary_emb.inv_freq",)

GENERIC_HF = KeyMap("Llama", LLAMA, _QK, INV_FREQ)
REWARD_HF = KeyMap(
    "reward model",
    {**{k: v for k, v in LLAMA.items() if k != "lm_head.weight"}, "score.weight": ("output.weight",)},
    _QK,
    (*INV_FREQ, "score.bias"),
)
QWEN2_HF = KeyMap("Qwen2", {**LLAMA, **QKV_BIAS}, ignored=INV_FREQ)
QWEN3_HF = KeyMap("Qwen3", {**LLAMA, **QKV_BIAS, **QK_NORM}, ignored=INV_FREQ)
GEMMA = {
    **_EMBEDDING,
    **_QKV,
    **_O,
    **_MLP,
    **by_layer(
        {
            "input_layernorm.weight": "sa_norm.scale",
            "post_attention_layernorm.weight": "sa_scale.scale",
            "pre_feedforward_layernorm.weight": "mlp_norm.scale",
            "post_feedforward_layernorm.weight": "mlp_scale.scale",
        }
    ),
    **_TOP,
}
GEMMA2_HF = KeyMap("Gemma 2", {**GEMMA, "model.norm.weight": ("norm.rms_norm.scale",)}, _QK, INV_FREQ)
PHI3_HF = KeyMap(
    "Phi-3",
    {
        **_EMBEDDING,
        _HF_LAYER + "self_attn.qkv_proj.weight": tuple(
            _LAYER + f"attn.{p}.weight" for p in ("q_proj", "k_proj", "v_proj")
        ),
        **_O,
        _HF_LAYER + "mlp.gate_up_proj.weight": (_LAYER + "mlp.w1.weight", _LAYER + "mlp.w3.weight"),
        **by_layer({"mlp.down_proj.weight": "mlp.w2.weight"}),
        **_NORMS,
        **_TOP,
    },
    ignored=INV_FREQ,
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
