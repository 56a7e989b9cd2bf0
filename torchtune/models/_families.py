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

from torchtune.models._dense import DecoderSpec
from torchtune.models._key_maps import (
    GEMMA2_HF,
    GENERIC_HF,
    GENERIC_META,
    PHI3_HF,
    QWEN2_HF,
    QWEN3_HF,
    REWARD_HF,
    KeyMap,
)
from torchtune.models.convert_weights import (
    HeadSizes,
    StateDict,
    convert_from_tune,
    convert_to_tune,
    peft_to_tune_adapter_weights,
    tune_to_peft_adapter_weights,
)
from torchtune.models.gemma._component_builders import gemma_spec
from torchtune.models.gemma2._component_builders import gemma2_spec
from torchtune.models.llama2._component_builders import llama2_spec
from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE
from torchtune.models.mistral._component_builders import mistral_spec
from torchtune.models.phi3._component_builders import phi3_spec
from torchtune.models.qwen2._component_builders import qwen2_spec
from torchtune.models.qwen3._component_builders import qwen3_spec

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
    """

    model_type: str
    spec: Callable[..., DecoderSpec]
    hf: KeyMap
    meta: KeyMap | None = None
    activation: str = "silu"
    fixed: Mapping[str, Any] | None = None
    extra: Mapping[str, str] | None = None
    always_tied: bool = False

    def to_tune(self, state_dict: StateDict, config: HFConfig) -> StateDict:
        """Hugging Face tensors to ours; the repeated head of a tied checkpoint is left out."""
        if self.always_tied or config.get("tie_word_embeddings", False):
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
            state_dict, sizes.num_heads, sizes.num_kv_heads, sizes.dim, sizes.head_dim, self.hf
        )


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
        Family(
            "phi3", phi3_spec, PHI3_HF, fixed={"partial_rotary_factor": 1.0}, extra={"sliding_window": "sliding_window"}
        ),
    )
}


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
    if model_type not in FAMILIES:
        raise ValueError(f"config.json has model_type {model_type!r}; dense decoders are built for {sorted(FAMILIES)}")
    return FAMILIES[model_type]


def head_sizes(config: HFConfig) -> HeadSizes:
    """Attention sizes of a checkpoint, from its config.json."""
    heads = config["num_attention_heads"]
    return HeadSizes(heads, config.get("num_key_value_heads") or heads, config["hidden_size"], config.get("head_dim"))


def rope_of(config: HFConfig) -> tuple[float, dict[str, Any] | None]:
    """Base and Llama 3 scaling of a checkpoint's RoPE (``rope_parameters``, or ``rope_theta`` and ``rope_scaling``).

    Raises:
        ValueError: for a kind of scaling that isn't built.
    """
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    base = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise ValueError(f"config.json has RoPE scaling {kind!r}; built are 'default' and 'llama3'")
    return base, {
        "scale_factor": rope["factor"],
        "low_freq_factor": rope["low_freq_factor"],
        "high_freq_factor": rope["high_freq_factor"],
        "old_context_len": rope["original_max_position_embeddings"],
    }


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
        "intermediate_dim": config["intermediate_size"],
        "max_seq_len": max_seq_len or config.get("max_position_embeddings"),
        "attn_dropout": config.get("attention_dropout") or 0.0,
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope_base": base,
        **{name: config.get(key) for name, key in (family.extra or {}).items()},
    }
    if "head_dim" in known:
        arguments["head_dim"] = sizes.size
    spec = family.spec(**arguments)
    changes: dict[str, Any] = {}
    if "tie_word_embeddings" in config and not family.always_tied:
        changes["tie_word_embeddings"] = config["tie_word_embeddings"]
    if sizes.size != spec.head_size:
        changes["head_dim"] = sizes.size
    if scaling:
        changes["rope"] = partial(Llama3ScaledRoPE, base=base, **scaling)  # type: ignore[arg-type]
    return replace(spec, **changes)
