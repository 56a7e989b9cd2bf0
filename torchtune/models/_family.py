"""What a family's row says: how a decoder and its weights follow from a Hugging Face ``config.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchtune.models._convert import HeadSizes, StateDict, convert_from_tune, convert_to_tune
from torchtune.models._dense import DecoderSpec
from torchtune.models._key_maps import REWARD_HF, KeyMap
from torchtune.models._peft import peft_to_tune_adapter_weights, tune_to_peft_adapter_weights
from torchtune.models._rope import kind_of_scaling

HFConfig = Mapping[str, Any]
# Parameters of spec functions and the config's keys, for layers with and without a window.
LAYER_KEYS = {"sliding_window": "sliding_window", "layer_types": "layer_types"}


class ModelConfig(dict[str, Any]):
    """Values of a ``config.json``; a key that is needed and not there is a ValueError that names it."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"config.json lacks {key!r}, which a model of type {self.get('model_type')!r} needs")


@dataclass(frozen=True)
class Family:
    """How the architecture and the weights of a family follow from a Hugging Face checkpoint."""

    model_type: str
    spec: Callable[..., DecoderSpec]
    hf: KeyMap
    meta: KeyMap | None = None  # layout of its Meta checkpoints, where there are any
    activation: str = "silu"  # the only hidden_act that is built
    fixed: Mapping[str, Any] | None = None  # config values that are built; another value is refused
    extra: Mapping[str, str] | None = None  # further parameters of the spec function, by their config key
    always_tied: bool = False  # the output layer is the embedding, whatever the config says
    defaults: Mapping[str, Any] | None = None  # config values where config.json leaves them out
    reads: Callable[[HFConfig], dict[str, Any]] | None = None  # arguments of spec that take more than a look-up
    width: str = "intermediate_size"  # config key of the feed-forward layer's hidden size
    prepare: Callable[[StateDict], StateDict] | None = None  # makes a published checkpoint's tensors those of hf
    architecture: str | None = None  # of checkpoints that are written, where the published ones hold more than is built
    alias: str | None = None  # model_type of checkpoints that hold more than is built

    def text_config(self, config: HFConfig) -> ModelConfig:
        """The config of what is built: of the text part, with the family's defaults, and without what is undone on loading."""
        flat = {key: value for key, value in config.items() if key not in ("text_config", "vision_config")}
        text = ModelConfig({**(self.defaults or {}), **flat, **(config.get("text_config") or {})})
        text.pop("quantization_config", None)
        if self.architecture:
            text.update(architectures=[self.architecture], model_type=self.model_type)
        return text

    def head_sizes(self, config: HFConfig) -> HeadSizes:
        """Attention sizes of a checkpoint, and its number of experts."""
        config = self.text_config(config)
        heads = config["num_attention_heads"]
        experts = config.get("num_experts") or config.get("num_local_experts")  # transformers 5 writes the second name
        return HeadSizes(
            heads, config.get("num_key_value_heads") or heads, config["hidden_size"], config.get("head_dim"), experts
        )

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
        return convert_to_tune(state_dict, layout, self.head_sizes(config))

    def to_hf(self, state_dict: StateDict, config: HFConfig) -> StateDict:
        """Our tensors to Hugging Face's."""
        classifier = any("Classification" in name for name in config.get("architectures") or ())
        return convert_from_tune(state_dict, REWARD_HF if classifier else self.hf, self.head_sizes(config))

    def adapter_to_peft(self, state_dict: StateDict, config: HFConfig) -> StateDict:
        """Our adapter tensors to PEFT's."""
        sizes = self.head_sizes(config)
        return tune_to_peft_adapter_weights(
            state_dict, sizes.num_heads, sizes.num_kv_heads, sizes.dim, sizes.head_dim, self.hf
        )

    def adapter_from_peft(self, state_dict: StateDict, config: HFConfig) -> StateDict:
        """PEFT's adapter tensors to ours."""
        sizes = self.head_sizes(config)
        return peft_to_tune_adapter_weights(
            state_dict, sizes.num_heads, sizes.num_kv_heads, sizes.dim, sizes.head_dim, self.hf, sizes.num_experts
        )


def rope_of(config: HFConfig, kind: str = "full_attention") -> tuple[float, dict[str, Any] | None]:
    """Base and scaling of a checkpoint's RoPE in layers of a kind: None where it isn't stretched.

    They stand in ``rope_parameters``, or ``rope_theta`` and ``rope_scaling``; a scaling that isn't built is an error.
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
