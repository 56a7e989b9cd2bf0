"""The recipes that come with torchtune and their configs, as ``tune ls`` lists them. Imports nothing heavy."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Config:
    """A config: its name for the command line, and its file under ``recipes/configs``.

    Args:
        name: such as ``llama3_2/1B_lora``.
        file_path: its file, relative to ``recipes/configs``.
    """

    name: str
    file_path: str


@dataclass
class Recipe:
    """A recipe: its name for the command line, its file under ``recipes``, its configs.

    Args:
        name: such as ``lora_finetune_single_device``.
        file_path: its file, relative to ``recipes``.
        configs: the configs that ``tune ls`` lists for it.
        supports_distributed: whether ``tune run`` may start it with torchrun.
    """

    name: str
    file_path: str
    configs: list[Config]
    supports_distributed: bool


# name, file, whether torchrun may start it
_RECIPES = (
    ("full_finetune_single_device", "finetune.py", False),
    ("full_finetune_distributed", "finetune.py", True),
    ("lora_finetune_single_device", "finetune.py", False),
    ("lora_finetune_distributed", "finetune.py", True),
    ("dev/lora_finetune_distributed_multi_dataset", "finetune.py", True),
    ("lora_dpo_single_device", "dpo.py", False),
    ("lora_dpo_distributed", "dpo.py", True),
    ("full_dpo_single_device", "dpo.py", False),
    ("full_dpo_distributed", "dpo.py", True),
    ("ppo_full_finetune_single_device", "ppo.py", False),
    ("ppo_lora_finetune_single_device", "ppo.py", False),
    ("dev/grpo_full_finetune_single_device", "grpo.py", False),
    ("dev/grpo_full_finetune_distributed", "grpo.py", True),
    ("dev/grpo_lora_finetune_single_device", "grpo.py", False),
    ("dev/grpo_lora_finetune_distributed", "grpo.py", True),
    ("generate", "generate.py", False),
    ("dev/generate_v2", "generate.py", False),
    ("dev/generate_v2_distributed", "generate.py", True),
    ("dev/early_exit_finetune_distributed", "finetune.py", True),
    ("eleuther_eval", "eleuther_eval.py", False),
    ("quantize", "quantize.py", False),
    ("qat_single_device", "finetune.py", False),
    ("qat_distributed", "finetune.py", True),
    ("qat_lora_finetune_distributed", "finetune.py", True),
    ("knowledge_distillation_single_device", "finetune.py", False),
    ("knowledge_distillation_distributed", "finetune.py", True),
)

# start of a recipe's name -> the keys without which it would do what another recipe does
_NEEDS = {"knowledge_distillation": ("teacher_model", "teacher_checkpointer", "kd_loss"), "qat": ("quantizer",)}


@functools.cache
def _table() -> tuple[Recipe, ...]:
    configs = json.loads((recipes_root() / "configs" / "index.json").read_text(encoding="utf-8"))
    return tuple(
        Recipe(name, file, [Config(c, f"{c}.yaml") for c in configs.get(name, ())], distributed)
        for name, file, distributed in _RECIPES
    )


def get_all_recipes() -> list[Recipe]:
    """All recipes, in the order of ``tune ls``."""
    return list(_table())


def recipes_root() -> Path:
    """The folder of the recipes: beside the package, in a checkout and in an installed wheel."""
    beside = Path(__file__).resolve().parent.parent / "recipes"
    if beside.is_dir():
        return beside
    spec = importlib.util.find_spec("recipes")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "configs").is_dir():
            return Path(folder)
    raise FileNotFoundError(
        f"The folder of the recipes was not found: neither {beside} nor an installed package 'recipes' with configs"
    )


def find_recipe(name: str) -> Recipe | None:
    """The recipe of this name, if there is one."""
    return next((recipe for recipe in _table() if recipe.name == name), None)


def names() -> list[str]:
    """The names of all recipes and configs."""
    return [name for recipe in _table() for name in (recipe.name, *(config.name for config in recipe.configs))]


def recipes_of_config(name: str) -> list[Recipe]:
    """The recipes that list a config of this name."""
    return [recipe for recipe in _table() if any(config.name == name for config in recipe.configs)]


def find_config(name: str) -> Path | None:
    """The file of the config of this name, if there is one."""
    return recipes_root() / "configs" / f"{name}.yaml" if recipes_of_config(name) else None


def _trains_whole(model: Any) -> bool:
    """Whether a config's model is one of torchtune's without an adapter; other components may have one of any name."""
    if not isinstance(model, Mapping):
        return False
    component = str(model.get("_component_", ""))
    named = "lora" in component or "dora" in component or any("lora" in str(key) for key in model)
    return component.startswith("torchtune.models.") and not named


def missing_keys(recipe: str, config: Mapping[str, Any]) -> str | None:
    """What a config lacks to be one of a recipe, in a sentence; None if nothing."""
    needed = next((keys for start, keys in _NEEDS.items() if recipe.startswith(start)), ())
    missing = [key for key in needed if config.get(key) is None]
    if "lora" in recipe and config and _trains_whole(config.get("model")):
        missing.append("an adapter in model (a lora_*, qlora_* or dora_* component, with lora_attn_modules)")
    if not missing:
        return None
    return (
        f"The config is one of another recipe: it lacks {', '.join(missing)}, which {recipe} needs. `tune ls` shows which "
        "configs go with which recipe; add the keys if it is your own."
    )


def recipe_file(recipe: Recipe) -> Path:
    """The file of a recipe."""
    return recipes_root() / recipe.file_path


def config_keys(file: Path) -> frozenset[str]:
    """The config keys that a recipe declares in its ``CONFIG_KEYS``, read without importing it; empty if it has none."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == "CONFIG_KEYS" for target in targets):
            value = node.value
            if isinstance(value, ast.Call) and value.args:  # frozenset({...}) or tuple([...])
                value = value.args[0]
            return frozenset(ast.literal_eval(value or ast.Tuple([])))
    return frozenset()
