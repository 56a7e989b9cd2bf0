"""Table: where the row of each ``model_type`` of a Hugging Face ``config.json`` stands.

With its row a checkpoint of any size loads without a builder of its own: ``spec_from_hf_config`` is what to build,
``Family.to_tune`` its weights.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from torchtune.models._dense import DecoderSpec
from torchtune.models._family import Family, HFConfig, rope_of
from torchtune.models._rope import ScaledRotaryPositionalEmbeddings

# model_type -> the module, under torchtune.models, whose FAMILIES has the row. gemma3 is its model with images.
MODULES = {
    "llama": "llama2._component_builders",
    "mistral": "mistral._component_builders",
    "ministral": "mistral._component_builders",
    "qwen2": "qwen2._component_builders",
    "qwen3": "qwen3._component_builders",
    "gemma": "gemma._component_builders",
    "gemma2": "gemma2._component_builders",
    "phi3": "phi3._component_builders",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "qwen3_moe": "qwen3_moe",
    "gpt_oss": "gpt_oss",
    "smollm3": "smollm3",
    "granite": "granite4",
    "granitemoehybrid": "granite4",
}


def family_of(config: HFConfig) -> Family:
    """The family of a checkpoint by its config.json; an error where ``model_type`` isn't in the table."""
    model_type = str(config.get("model_type"))
    if model_type not in MODULES:
        raise ValueError(f"config.json has model_type {model_type!r}; decoders are built for {sorted(MODULES)}")
    rows: tuple[Family, ...] = import_module(f"torchtune.models.{MODULES[model_type]}").FAMILIES
    return next(row for row in rows if model_type in (row.model_type, row.alias))


def spec_from_hf_config(config: HFConfig, max_seq_len: int | None = None) -> DecoderSpec:
    """What to build for a Hugging Face checkpoint of any size; ``max_seq_len`` None is its ``max_position_embeddings``.

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
    sizes = family.head_sizes(config)
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
