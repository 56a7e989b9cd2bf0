"""Which layout each ``ModelType`` has on disk, as tables, and the conversion by them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchtune.training.checkpointing._utils import ModelType

StateDict = dict[str, torch.Tensor]

# Layouts that a key map describes: name of the map in torchtune.models._key_maps.
_KEY_MAPS = {
    ModelType.REWARD: "REWARD_HF",
    ModelType.QWEN2: "QWEN2_HF",
    ModelType.QWEN3: "QWEN3_HF",
    ModelType.GEMMA2: "GEMMA2_HF",
    ModelType.PHI3_MINI: "PHI3_HF",
    ModelType.PHI4: "PHI3_HF",
}
# Layouts that need code of their own: module in torchtune.models, function that reads, and function that writes if any.
_HF_FUNCTIONS = {
    ModelType.LLAMA3_VISION: (
        "llama3_2_vision._convert_weights",
        "llama3_vision_hf_to_tune",
        "llama3_vision_tune_to_hf",
    ),
    ModelType.LLAMA4: ("llama4._convert_weights", "llama4_hf_to_tune", "llama4_tune_to_hf"),
    ModelType.CLIP_TEXT: ("clip._convert_weights", "clip_text_hf_to_tune"),
    ModelType.T5_ENCODER: ("t5._convert_weights", "t5_encoder_hf_to_tune"),
}
_META_FUNCTIONS = {
    ModelType.LLAMA3_VISION: (
        "llama3_2_vision._convert_weights",
        "llama3_vision_meta_to_tune",
        "llama3_vision_tune_to_meta",
    ),
    ModelType.LLAMA4: ("llama4._convert_weights", "llama4_meta_to_tune", "llama4_tune_to_meta"),
}
_GENERIC_META = ("convert_weights", "meta_to_tune", "tune_to_meta")
_LOAD, _SAVE = 1, 2


def _vision_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the Llama 3.2 Vision converter needs of ``config.json``."""
    from torchtune.models._family import ModelConfig

    text, vision = (ModelConfig(ModelConfig(config)[part]) for part in ("text_config", "vision_config"))
    return {
        "num_heads": text["num_attention_heads"],
        "num_kv_heads": text["num_key_value_heads"],
        "dim": text["hidden_size"],
        "head_dim": text.get("head_dim"),
        "vocab_size": text["vocab_size"],
        "cross_attention_layers": text.get("cross_attention_layers"),
        "encoder_dim": vision["hidden_size"],
        "tile_size": vision["image_size"],
        "num_tiles": vision["max_num_tiles"],
        "supported_aspect_ratios": vision.get("supported_aspect_ratios"),
    }


def _resolve(functions: tuple[str, ...], direction: int, model_type: ModelType) -> Callable[..., StateDict]:
    if direction >= len(functions):
        raise ValueError(f"{model_type.name} checkpoints can be read, not written, in this layout")
    return getattr(importlib.import_module(f"torchtune.models.{functions[0]}"), functions[direction])


class HFLayout:
    """The Hugging Face layout of one model, whose ``config.json`` says the sizes of its attention heads."""

    def __init__(self, model_type: ModelType, config: Mapping[str, Any]) -> None:
        self.model_type = model_type
        self.config = config
        self._family: Any = None
        if model_type is ModelType.AUTO:
            from torchtune.models._families import family_of

            self._family = family_of(config)
            self.config = self._family.text_config(config)
        self.tied = bool(config.get("tie_word_embeddings", False))
        #: Whether parts of the state dict (single layers) can be converted apart.
        self.by_layer = model_type not in _HF_FUNCTIONS

    @property
    def key_map(self) -> Any:
        """The layout's key map (text models)."""
        if self._family is not None:
            return self._family.hf
        from torchtune.models import _key_maps

        return getattr(_key_maps, _KEY_MAPS.get(self.model_type, "GENERIC_HF"))

    @property
    def sizes(self) -> Any:
        """Heads and dims, as the key map's conversion takes them."""
        from torchtune.models._convert import HeadSizes

        missing = [key for key in ("num_attention_heads", "hidden_size") if key not in self.config]
        if missing:
            raise ValueError(f"config.json lacks {missing}, which the {self.model_type.name} layout needs")
        heads = self.config["num_attention_heads"]
        head_dim = None if self.model_type is ModelType.REWARD else self.config.get("head_dim")
        return HeadSizes(heads, self.config.get("num_key_value_heads") or heads, self.config["hidden_size"], head_dim)

    def to_tune(self, state_dict: Mapping[str, torch.Tensor]) -> StateDict:
        """Our layout of Hugging Face tensors; views where nothing moves."""
        if functions := _HF_FUNCTIONS.get(self.model_type):
            return self._by_code(functions, _LOAD, state_dict)
        if self._family is not None:
            return self._family.to_tune(dict(state_dict), self.config)
        from torchtune.models._convert import UnexpectedKey, convert_to_tune

        try:
            converted = convert_to_tune(state_dict, self.key_map, self.sizes)
        except UnexpectedKey as error:
            error.message += (
                f" checkpointer.model_type is {self.model_type.name}, and config.json's {self.config.get('model_type')!r}; "
                "AUTO takes the layout of config.json"
            )
            raise
        if self.tied:  # some files hold the tied matrix twice
            converted.pop("output.weight", None)
        return converted

    def from_tune(self, state_dict: Mapping[str, torch.Tensor]) -> StateDict:
        """Hugging Face's layout of our tensors."""
        if functions := _HF_FUNCTIONS.get(self.model_type):
            return self._by_code(functions, _SAVE, state_dict)
        if self._family is not None:
            return self._family.to_hf(dict(state_dict), self.config)
        from torchtune.models._convert import convert_from_tune

        return convert_from_tune(state_dict, self.key_map, self.sizes)

    def _by_code(self, functions: tuple[str, ...], direction: int, state: Mapping[str, torch.Tensor]) -> StateDict:
        sizes = _vision_sizes(self.config) if self.model_type is ModelType.LLAMA3_VISION else {}
        return _resolve(functions, direction, self.model_type)(dict(state), **sizes)

    def writes_peft(self, adapter: Mapping[str, torch.Tensor]) -> bool:
        """Whether an adapter of this layout can be written for PEFT, which has no DoRA for models with adapted experts."""
        experts = any(".experts.lora_" in key for key in adapter)
        dora = any(key.endswith("magnitude") for key in adapter)
        return self.by_layer and self.key_map.peft and not (experts and dora)

    def adapter_to_peft(self, state_dict: StateDict) -> StateDict:
        """PEFT's layout of our adapter tensors."""
        from torchtune.models.convert_weights import tune_to_peft_adapter_weights

        s = self.sizes
        return tune_to_peft_adapter_weights(
            state_dict, s.num_heads, s.num_kv_heads, s.dim, s.head_dim, key_map=self.key_map
        )

    def adapter_from_peft(self, state_dict: StateDict) -> StateDict:
        """Our layout of PEFT's adapter tensors."""
        if self._family is not None:
            return self._family.adapter_from_peft(state_dict, self.config)
        from torchtune.models.convert_weights import peft_to_tune_adapter_weights

        s = self.sizes
        return peft_to_tune_adapter_weights(
            state_dict, s.num_heads, s.num_kv_heads, s.dim, s.head_dim, key_map=self.key_map
        )


def meta_to_tune(state_dict: StateDict, model_type: ModelType) -> StateDict:
    """Our layout of a checkpoint in Meta's own."""
    functions = _META_FUNCTIONS.get(model_type, _GENERIC_META)
    converted = _resolve(functions, _LOAD, model_type)(state_dict)
    if model_type is ModelType.LLAMA3_2:  # Meta's files hold the tied matrix twice
        converted.pop("output.weight", None)
    return converted


def tune_to_meta(state_dict: StateDict, model_type: ModelType) -> StateDict:
    """Meta's own layout of our tensors."""
    if model_type is ModelType.LLAMA3_2:
        state_dict = {**state_dict, "output.weight": state_dict["tok_embeddings.weight"]}
    functions = _META_FUNCTIONS.get(model_type, _GENERIC_META)
    return _resolve(functions, _SAVE, model_type)(state_dict)
