"""Writes the configs: a checkpoint is a row, a method is a row, and ``settings`` says where a pair differs.

``python -m recipes.catalog`` writes ``recipes/configs/**.yaml`` and the index behind ``tune ls``; what it writes is
committed, and a test holds the two equal. To add a size, add a row to ``checkpoints``; to add a method, one to ``methods``;
a config that differs little from another is a row of ``variants``. ``generation`` and ``evaluation`` are for models as they are.
Configs that are written by hand stand in ``HAND_WRITTEN``.
"""

from __future__ import annotations

import json

from recipes.catalog._render import render
from recipes.catalog._values import config_values
from recipes.catalog.checkpoints import CHECKPOINTS
from recipes.catalog.evaluation import evaluation_configs
from recipes.catalog.generation import generation_configs
from recipes.catalog.methods import METHODS
from recipes.catalog.preference import preference_configs
from recipes.catalog.variants import variant_configs

# recipe -> configs that no table makes
HAND_WRITTEN: dict[str, tuple[str, ...]] = {
    "full_finetune_single_device": ("quickstart/tool_calling",),
    "full_finetune_distributed": ("quickstart/tool_calling",),
    "lora_finetune_single_device": ("quickstart/tool_calling_lora",),
    "lora_finetune_distributed": ("quickstart/tool_calling_lora",),
    "dev/grpo_full_finetune_single_device": ("quickstart/tool_calling_grpo",),
    "generate": ("quickstart/generation",),
}

# The same config under a second name: torchtune lists one and has a file of the other
SECOND_NAMES = {
    "dev/3B_sft_for_grpo": "dev/3B_grpo_sft",
    "dev/7B_full_early_exit": "llama2/7B_full_early_exit",
}
FIRST = "dev/3B_grpo_sft"  # of its recipe, as `tune ls` of torchtune has it

# Families whose rows stand ready, but whose models are not there yet: not written, not listed
WAITING: frozenset[str] = frozenset()
_READY = tuple(checkpoint for checkpoint in CHECKPOINTS if checkpoint.name.split("/")[0] not in WAITING)


def _others() -> dict[str, tuple[str, str]]:
    """Recipe and text of the configs that are no checkpoint with a method."""
    makers = (variant_configs, preference_configs, generation_configs, evaluation_configs)
    found = {name: config for maker in makers for name, config in maker(WAITING).items()}
    for second, name in SECOND_NAMES.items():
        recipe, text = found[name]
        found[second] = (recipe, text.replace(f"--config {name}\n", f"--config {second}\n"))
    return found


def written_configs() -> dict[str, str]:
    """Every config that the catalog writes: its name (``llama3_2/1B_lora``) and its text."""
    texts = {
        f"{checkpoint.name}_{method}": render(checkpoint, METHODS[method], config_values(checkpoint, METHODS[method]))
        for checkpoint in _READY
        for method in checkpoint.methods
    }
    return texts | {name: text for name, (_, text) in _others().items()}


def index() -> dict[str, list[str]]:
    """The configs of each recipe, in the order of ``tune ls``."""
    listed: dict[str, list[str]] = {}
    for checkpoint in _READY:
        for method in checkpoint.methods:
            for recipe in METHODS[method].runs_on(checkpoint)[0]:
                listed.setdefault(recipe, []).append(f"{checkpoint.name}_{method}")
    for name, (recipe, _) in _others().items():
        listed.setdefault(recipe, []).append(name)
    for recipe, names in HAND_WRITTEN.items():
        listed.setdefault(recipe, []).extend(names)
    return {recipe: sorted(names, key=lambda name: name != FIRST) for recipe, names in listed.items()}


def index_text() -> str:
    """The text of ``recipes/configs/index.json``."""
    return json.dumps(index(), indent=2) + "\n"
