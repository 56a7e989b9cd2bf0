"""Table: the families of dense decoders by the ``model_type`` of a Hugging Face ``config.json``.

A row says how the architecture follows from the config, and which key map its weights have. With it a checkpoint of any
size loads without a builder of its own: ``spec_from_hf_config`` is what to build, ``Family.to_tune`` its weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torchtune.models._convert import HeadSizes, StateDict, convert_from_tune, convert_to_tune
from torchtune.models._dense import DecoderSpec
from torchtune.models._key_maps import (
    GEMMA2_HF,
    GEMMA3_HF,
    GENERIC_HF,
    GENERIC_META,
    GPT_OSS_HF,
    GRANITE4_HF,
    GRANITE_HF,
    PHI3_HF,
    QWEN2_HF,
    QWEN3_HF,
    QWEN3_MOE_HF,
    REWARD_HF,
    SMOLLM3_HF,
    KeyMap,
)
from torchtune.models._peft import peft_to_tune_adapter_weights, tune_to_peft_adapter_weights
from torchtune.models._rope import ScaledRotaryPositionalEmbeddings, kind_of_scaling
from torchtune.models.gemma._component_builders import gemma_spec
from torchtune.models.gemma2._component_builders import gemma2_spec
from torchtune.models.gemma3 import gemma3_spec
from torchtune.models.gpt_oss import gpt_oss_spec
from torchtune.models.gpt_oss._convert_weights import gpt_oss_plain
from torchtune.models.granite4 import granite4_spec
from torchtune.models.llama2._component_builders import llama2_spec
from torchtune.models.mistral._component_builders import mistral_spec
from torchtune.models.phi3._component_builders import phi3_spec
from torchtune.models.qwen2._component_builders import qwen2_spec
from torchtune.models.qwen3._component_builders import qwen3_spec
from torchtune.models.qwen3_moe import qwen3_moe_spec
from torchtune.models.smollm3 import smollm3_spec

HFConfig = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """One family of dense decoders.

    Args:
        model_type (str): ``model_type`` in config.json.
        spec (Callable[..., DecoderSpec]): the family's spec function.
        hf (KeyMap): layout of its Hugging Face checkpoints.
        meta (KeyMap | None): layout of its Meta checkpoints, where there are any.
        activation (str): the only ``hidden_act`` that is built.
        fixed (Mapping[str, Any]): config values that are built; another value is refused.
        extra (Mapping[str, str]): further parameters of the spec function, by their config key.
        always_tied (bool): the output layer is the embedding, whatever the config says.
        defaults (Mapping[str, Any] | None): config values where config.json leaves them out.
        reads (Callable[[HFConfig], dict[str, Any]] | None): arguments of the spec function that take more than a look-up.
        width (str): config key of the feed-forward layer's hidden size.
        prepare (Callable[[StateDict], StateDict] | None): makes the tensors of a published checkpoint those of ``hf``.
        architecture (str | None): of checkpoints that are written, where the published ones hold more than is built.
    """

    model_type: str
    spec: Callable[..., DecoderSpec]
    hf: KeyMap
    meta: KeyMap | None = None
    activation: str = "silu"
    fixed: Mapping[str, Any] | None = None
    extra: Mapping[str, str] | None = None
    always_tied: bool = False
    defaults: Mapping[str, Any] | None = None
    reads: Callable[[HFConfig], dict[str, Any]] | None = None
    width: str = "intermediate_size"
    prepare: Callable[[StateDict], StateDict] | None = None
    architecture: str | None = None

    def text_config(self, config: HFConfig) -> dict[str, Any]:
        """The config of what is built: of the text part, with the family's defaults, and without what is undone on loading."""
        flat = {key: value for key, value in config.items() if key not in ("text_config", "vision_config")}
        text = {**(self.defaults or {}), **flat, **(config.get("text_config") or {})}
        text.pop("quantization_config", None)
        if self.architecture:
            text.update(architectures=[self.architecture], model_type=self.model_type)
        return text

    def tied(self, config: HFConfig) -> bool:
        """Whether the output layer is the embedding."""
        return self.always_tied or bool(self.text_config(config).get("tie_word_embeddings", False))

    def to_tune(self, state_dict: StateDict, config: HFConfig) -> StateDict:
        """Hugging Face tensors to ours; the repeated head of a tied checkpoint is left out."""
        if self.prepare:
            state_dict = self.prepare(state_dict)
        if self.tied(config):
            state_dict = {key: value for key, value in state_dict.items() if key != "lm_head.weight"}
        layout = REWARD_HF if "score.weight" in state_dict else self.hf
        return convert_to_tune(state_dict, layout, head_sizes(config))

    def to_hf(self, state_dict: StateDict, config: HFConfig) -> StateDict:
        """Our tensors to Hugging Face's."""
        classifier = any("Classification" in name for name in config.get("architectures") or ())
        return convert_from_tune(state_dict, REWARD_HF if classifier else self.hf, head_sizes(config))

    def adapter_to_peft(self, state_dict: StateDict, config: HFConfig) -> StateDict:
        """Our adapter tensors to PEFT's."""
        sizes = head_sizes(config)
        return tune_to_peft_adapter_weights(
            state_dict, sizes.num_heads, sizes.num_kv_heads, sizes.dim, sizes.head_dim, self.hf
        )

    def adapter_from_peft(self, state_dict: StateDict, config: HFConfig) -> StateDict:
        """PEFT's adapter tensors to ours."""
        sizes = head_sizes(config)
        return peft_to_tune_adapter_weights(
            state_dict, sizes.num_heads, sizes.num_kv_heads, sizes.dim, sizes.head_dim, self.hf, sizes.num_experts
        )


def _gemma3_text(state_dict: StateDict) -> StateDict:
    """The text part of a checkpoint with images, by the names of one without."""
    vision = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
    text = {key: value for key, value in state_dict.items() if not key.startswith(vision)}
    names = {key: key.removeprefix("language_model.").replace("model.language_model.", "model.") for key in text}
    return {names[key]: value for key, value in text.items()}


_MULTIPLIERS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
_GRANITE = {name: name for name in _MULTIPLIERS}
_GRANITE_DEFAULTS = dict.fromkeys(_MULTIPLIERS, 1.0)
_LAYERS = {"sliding_window": "sliding_window", "layer_types": "layer_types"}
_QWEN_FIXED = {"use_sliding_window": False}
_LLAMA_FIXED = {"attention_bias": False, "mlp_bias": False}
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama", llama2_spec, GENERIC_HF, GENERIC_META, fixed=_LLAMA_FIXED),
        Family("mistral", mistral_spec, GENERIC_HF, GENERIC_META, extra={"sliding_window": "sliding_window"}),
        Family("qwen2", qwen2_spec, QWEN2_HF, fixed=_QWEN_FIXED),
        Family("qwen3", qwen3_spec, QWEN3_HF, fixed={**_QWEN_FIXED, "attention_bias": False}),
        Family("gemma", gemma_spec, GENERIC_HF, activation="gelu_pytorch_tanh", always_tied=True),
        Family(
            "gemma2",
            partial(gemma2_spec, cap_logits=True),
            GEMMA2_HF,
            activation="gelu_pytorch_tanh",
            always_tied=True,
            extra={
                "hidden_capping_value": "attn_logit_softcapping",
                "final_capping_value": "final_logit_softcapping",
                "sliding_window_size": "sliding_window",
                "query_pre_attn_scalar": "query_pre_attn_scalar",
            },
        ),
        Family("phi3", phi3_spec, PHI3_HF, extra={"sliding_window": "sliding_window"}),
        Family("ministral", mistral_spec, GENERIC_HF, extra=_LAYERS),
        Family(
            "gemma3_text",
            gemma3_spec,
            GEMMA3_HF,
            activation="gelu_pytorch_tanh",
            fixed={"attention_bias": False, "attn_logit_softcapping": None, "final_logit_softcapping": None}
            | {"use_bidirectional_attention": False},
            extra={**_LAYERS, "query_pre_attn_scalar": "query_pre_attn_scalar"},
            always_tied=True,
            defaults={
                "vocab_size": 262_208,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "max_position_embeddings": 131_072,
                "rms_norm_eps": 1e-6,
                "query_pre_attn_scalar": 256,
                "sliding_window": 4096,
                "rope_theta": 1_000_000.0,
            },
            reads=lambda config: {"local_rope_base": rope_of(config, "sliding_attention")[0]},
            prepare=_gemma3_text,
            architecture="Gemma3ForCausalLM",
        ),
        Family(
            "qwen3_moe",
            qwen3_moe_spec,
            QWEN3_MOE_HF,
            fixed={**_QWEN_FIXED, "attention_bias": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
            extra={"experts_per_token": "num_experts_per_tok", "normalize_experts": "norm_topk_prob"},
            defaults={"num_experts_per_tok": 8, "norm_topk_prob": False},
            reads=lambda config: {"num_experts": head_sizes(config).num_experts},
            width="moe_intermediate_size",
        ),
        Family(
            "gpt_oss",
            gpt_oss_spec,
            GPT_OSS_HF,
            fixed={"attention_bias": True, "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
            extra={**_LAYERS, "num_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"},
            defaults={"rope_theta": 150_000.0},
            prepare=gpt_oss_plain,
        ),
        Family(
            "smollm3",
            smollm3_spec,
            SMOLLM3_HF,
            fixed={**_QWEN_FIXED, **_LLAMA_FIXED},
            extra={"no_rope_layers": "no_rope_layers"},
            defaults={"rope_theta": 2_000_000.0, "tie_word_embeddings": True},
        ),
        Family("granite", granite4_spec, GRANITE_HF, fixed=_LLAMA_FIXED, extra=_GRANITE, defaults=_GRANITE_DEFAULTS),
        Family(
            "granitemoehybrid",
            granite4_spec,
            GRANITE4_HF,
            fixed={"attention_bias": False, "num_local_experts": 0, "position_embedding_type": "rope"},
            extra=_GRANITE,
            defaults=_GRANITE_DEFAULTS,
            reads=lambda config: only_attention(config),
            width="shared_intermediate_size",
        ),
    )
}
_ALIASES = {"gemma3": "gemma3_text"}


def family_of(config: HFConfig) -> Family:
    """The family of a checkpoint.

    Args:
        config (HFConfig): contents of its config.json.

    Returns:
        Family: the row.

    Raises:
        ValueError: where ``model_type`` isn't in the table.
    """
    model_type = config.get("model_type")
    name = _ALIASES.get(str(model_type), str(model_type))
    if name not in FAMILIES:
        raise ValueError(f"config.json has model_type {model_type!r}; decoders are built for {sorted(FAMILIES)}")
    return FAMILIES[name]


def head_sizes(config: HFConfig) -> HeadSizes:
    """Attention sizes of a checkpoint, from its config.json, and its number of experts."""
    config = family_of(config).text_config(config) if "model_type" in config else config
    heads = config["num_attention_heads"]
    experts = config.get("num_experts") or config.get("num_local_experts")  # transformers 5 writes the second name
    return HeadSizes(
        heads, config.get("num_key_value_heads") or heads, config["hidden_size"], config.get("head_dim"), experts
    )


def only_attention(config: HFConfig) -> dict[str, Any]:
    """No arguments, but an error where a layer is no attention layer (Granite 4 with Mamba)."""
    others = sorted(
        set(config.get("layer_types") or config.get("layers_block_type") or ["mamba"]) - {"attention", "full_attention"}
    )
    if others:
        raise ValueError(
            f"config.json has layers of type {others}; for this model_type only attention layers are built"
        )
    return {}


def rope_of(config: HFConfig, kind: str = "full_attention") -> tuple[float, dict[str, Any] | None]:
    """Base and scaling of a checkpoint's RoPE (``rope_parameters``, or ``rope_theta`` and ``rope_scaling``).

    Args:
        config (HFConfig): contents of config.json.
        kind (str): type of the layers, where each has its own.

    Returns:
        tuple[float, dict[str, Any] | None]: the base, and how it is stretched; None where it isn't.

    Raises:
        ValueError: for a kind of scaling that isn't built.
    """
    given = config.get("rope_parameters") or {}
    each = given if kind not in given else given[kind] or {}
    if kind == "sliding_attention":  # Gemma 3: these layers have a base of their own, and are never stretched
        return each.get("rope_theta") or config.get("rope_local_base_freq") or 10_000.0, None
    rope = {**(config.get("rope_scaling") or {}), **each}
    base = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    for name in ("partial_rotary_factor", "max_position_embeddings", "original_max_position_embeddings"):
        if rope.get(name) is None and config.get(name) is not None:
            rope[name] = config[name]
    if rope.get("original_max_position_embeddings") is None:
        rope["original_max_position_embeddings"] = rope.get("max_position_embeddings")
    stretched = kind_of_scaling(rope) != "default"
    return base, rope if stretched or rope.get("partial_rotary_factor", 1.0) != 1.0 else None


def spec_from_hf_config(config: HFConfig, max_seq_len: int | None = None) -> DecoderSpec:
    """What to build for a Hugging Face checkpoint of any size.

    Args:
        config (HFConfig): contents of its config.json.
        max_seq_len (int | None): longest input; None is the config's ``max_position_embeddings``.

    Returns:
        DecoderSpec: the architecture.

    Raises:
        ValueError: where the config asks for something that isn't built, rather than build it almost right.
    """
    family = family_of(config)
    config = family.text_config(config)
    activation = config.get("hidden_activation") or config.get("hidden_act") or family.activation
    for key, found, built in [("hidden_act", activation, family.activation)] + [
        (key, config.get(key, value), value) for key, value in (family.fixed or {}).items()
    ]:
        if found not in (built, None):
            raise ValueError(
                f"config.json has {key} {found!r}; for model_type {family.model_type!r} {built!r} is built"
            )
    base, scaling = rope_of(config)
    sizes = head_sizes(config)
    known = inspect.signature(family.spec).parameters
    arguments: dict[str, Any] = {
        "vocab_size": config["vocab_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": sizes.num_heads,
        "num_kv_heads": sizes.num_kv_heads,
        "embed_dim": sizes.dim,
        "intermediate_dim": config[family.width],
        "max_seq_len": max_seq_len or config.get("max_position_embeddings"),
        "attn_dropout": config.get("attention_dropout") or 0.0,
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope_base": base,
        **{name: config.get(key) for name, key in (family.extra or {}).items()},
        **(family.reads(config) if family.reads else {}),
    }
    arguments |= {k: v for k, v in (("head_dim", sizes.size), ("rope_scaling", scaling)) if k in known}
    spec = family.spec(**arguments)
    changes: dict[str, Any] = {}
    if "tie_word_embeddings" in config and not family.always_tied:
        changes["tie_word_embeddings"] = config["tie_word_embeddings"]
    if sizes.size != spec.head_size:
        changes["head_dim"] = sizes.size
    if scaling and "rope_scaling" not in known:
        pairs = bool(family.hf.permuted)
        changes["rope"] = partial(ScaledRotaryPositionalEmbeddings, base=base, scaling=scaling, pairs=pairs)
    return replace(spec, **changes)
