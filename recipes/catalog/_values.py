"""The keys and values of a config, from its checkpoint, its method and the settings of the pair."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import yaml

from recipes.catalog.checkpoints import Checkpoint
from recipes.catalog.methods import COMMON, GROUPS, Method
from recipes.catalog.settings import SETTINGS, TOOL_CALLING


def config_values(checkpoint: Checkpoint, method: Method) -> dict[str, Any]:
    """The config of a checkpoint and a method, as nested dicts.

    Raises:
        ValueError: if a setting has none of the three forms, or leaves out what is not there.
    """
    name = f"{checkpoint.name}_{method.name}"
    family = checkpoint.family
    folder = checkpoint.folder.rstrip("/")
    files = family.tokenizer_files | checkpoint.tokenizer_files
    values: dict[str, Any] = {
        "output_dir": f"{checkpoint.output}{method.name}",
        "model": {"_component_": f"torchtune.models.{family.module}.{method.builder}{checkpoint.builder}"},
        "tokenizer": {"_component_": f"torchtune.models.{family.tokenizer}"}
        | {key: f"{folder}/{file}" for key, file in files.items()},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": checkpoint.folder,
            "checkpoint_files": checkpoint.weights,
            "model_type": family.model_type,
        },
    }
    apply(values, COMMON)
    apply(values, method.settings)
    if method.tool_calls:
        values["tokenizer"]["chat_format"] = family.chat_format
    for patterns, settings in TOOL_CALLING if method.tool_calls else SETTINGS:
        if any(fnmatch(name, pattern) for pattern in patterns.split()):
            apply(values, settings)
    return values


def inference_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """The model, its tokenizer and its weights, to generate or evaluate with."""
    family, folder = checkpoint.family, checkpoint.folder.rstrip("/")
    files = family.tokenizer_files | checkpoint.tokenizer_files
    return {
        "output_dir": "./",
        "model": {"_component_": f"torchtune.models.{family.module}.{checkpoint.builder}"},
        "tokenizer": {"_component_": f"torchtune.models.{family.tokenizer}"}
        | {key: f"{folder}/{file}" for key, file in files.items()}
        | {"max_seq_len": None},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": checkpoint.folder,
            "checkpoint_files": checkpoint.weights,
            "output_dir": "${output_dir}",
            "model_type": family.model_type,
        },
    }


def apply(values: dict[str, Any], settings: str) -> None:
    """Applies settings to nested dicts, in place and in order."""
    for setting in _expanded(settings):
        if setting.startswith("-"):
            _drop(values, setting[1:])
            continue
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"'{setting}' is no setting: expected key=value, -key or @group")
        *path, last = key.split(".")
        node = values
        for part in path:
            node = node.setdefault(part, {})
        node[last] = text if re.match(r"\$\{|train\[", text) else yaml.safe_load(text)


def _expanded(settings: str) -> Iterator[str]:
    for setting in settings.split():
        if setting.startswith("@"):
            yield from _expanded(GROUPS[setting[1:]])
        else:
            yield setting


def _drop(values: dict[str, Any], key: str) -> None:
    *path, last = key.split(".")
    node = values
    for part in path:
        node = node[part]
    if last not in node:
        raise ValueError(f"'-{key}' leaves out a key that is not there")
    del node[last]
