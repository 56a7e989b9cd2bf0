"""The committed configs: written by the catalog, listed, and each component takes its arguments."""

from __future__ import annotations

import importlib.util
import inspect
import json
import shlex
import warnings
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from recipes.catalog import HAND_WRITTEN, WAITING, index_text, written_configs
from recipes.catalog._values import apply
from recipes.catalog.checkpoints import CHECKPOINTS
from torchtune import _recipe_registry as registry
from torchtune.config import InstantiationError, check_keys, validate
from torchtune.config._utils import _get_component_from_path
from torchtune.data.formats import get_format

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
NAMES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))
# What recipes add to a section's arguments: positional ones, and by name
GIVEN: dict[str, tuple[int, tuple[str, ...]]] = {
    "dataset": (1, ()),
    "dataset_val": (1, ()),
    "eval_rewards.dataset": (1, ()),
    "optimizer": (1, ()),
    "lr_scheduler": (1, ("num_training_steps",)),
    "tensor_parallel_plan": (0, ("model",)),
}
NOT_REQUIRED = ("bitsandbytes",)  # packages that users of a config install themselves, as its second line says


# Recipes of torchtune that are not here
ABSENT = {"dev/async_grpo_full_finetune_distributed"}
# A config that torchtune lists and does not have
NO_CONFIG = {"dev/3B_grpo_sft"}


# Models with configs for tool calls
CALLING = {
    "llama3_1": ["8B"], "llama3_2": ["1B", "3B"], "mistral": ["7B"],
    "qwen2_5": ["0.5B", "1.5B", "3B", "7B"], "qwen3": ["0.6B", "1.7B", "4B", "8B"],
    "gemma3": ["1B", "4B", "12B", "27B"], "qwen3_moe": ["30B_A3B", "235B_A22B"], "gpt_oss": ["20b", "120b"],
    "ministral": ["8B"], "mistral_nemo": ["12B"], "mistral_small": ["24B"],
    "smollm3": ["3B"], "phi4_mini": ["3.8B"], "granite4": ["micro"],
}  # fmt: skip


def load(name: str) -> DictConfig:
    cfg = OmegaConf.load(CONFIGS / f"{name}.yaml")
    assert isinstance(cfg, DictConfig)
    return cfg


def test_committed_configs_are_what_the_catalog_writes() -> None:
    written = written_configs()
    differing = [n for n, text in written.items() if n not in NAMES or (CONFIGS / f"{n}.yaml").read_text() != text]
    assert differing == [], "run `python -m recipes.catalog`"
    by_hand = {name for names in HAND_WRITTEN.values() for name in names}
    assert set(NAMES) - set(written) == by_hand


def test_the_index_is_what_the_catalog_writes() -> None:
    assert (CONFIGS / "index.json").read_text() == index_text(), "run `python -m recipes.catalog`"


def resolves(path: str) -> bool:
    try:
        return callable(_get_component_from_path(path))
    except InstantiationError:
        return False


def test_rows_wait_only_for_models_that_are_not_there() -> None:
    there = [
        checkpoint.name
        for checkpoint in CHECKPOINTS
        if checkpoint.family.module in WAITING
        and resolves(f"torchtune.models.{checkpoint.family.tokenizer}")
        and resolves(f"torchtune.models.{checkpoint.family.module}.{checkpoint.builder}")
    ]
    assert there == [], "take the family out of WAITING and run `python -m recipes.catalog`"


def test_every_config_and_recipe_file_is_listed_and_there() -> None:
    recipes = registry.get_all_recipes()
    assert {config.name for recipe in recipes for config in recipe.configs} == set(NAMES)
    assert [recipe.name for recipe in recipes if not registry.recipe_file(recipe).is_file()] == []
    for name in NAMES:
        assert registry.find_config(name) == CONFIGS / f"{name}.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_the_first_two_lines_say_how_to_get_the_weights_and_how_to_run(name: str) -> None:
    weights, run, blank = (CONFIGS / f"{name}.yaml").read_text().splitlines()[:3]
    assert weights.startswith("# Weights")
    assert run.startswith("# Run") and blank == ""
    recipes = {recipe.name for recipe in registry.recipes_of_config(name)}
    commands = run[run.index("tune run") :].partition("  (")[0].split("  or  ")
    for command in commands:
        words = shlex.split(command)
        assert words[words.index("--config") + 1] == name
        assert words[words.index("--config") - 1] in recipes


def components(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    if isinstance(node, list):
        return [found for i, value in enumerate(node) for found in components(value, f"{path}[{i}]")]
    if not isinstance(node, dict):
        return []
    inner = [found for k, v in node.items() for found in components(v, f"{path}.{k}" if path else k)]
    return [(path, node)] * ("_component_" in node) + inner


@pytest.mark.parametrize("name", NAMES)
def test_every_component_resolves_and_binds(name: str) -> None:
    problems = []
    for key, node in components(OmegaConf.to_container(load(name), resolve=True)):
        path = node["_component_"]
        package = path.partition(".")[0]
        if package in NOT_REQUIRED and importlib.util.find_spec(package) is None:
            continue
        count, by_name = GIVEN.get(key, (0, ()))
        kwargs = {k: v for k, v in node.items() if k != "_component_"} | dict.fromkeys(by_name)
        try:
            inspect.signature(_get_component_from_path(path)).bind(*[None] * count, **kwargs)
        except Exception as error:  # all of them at once
            problems.append(f"{key}: {path}: {error}")
    assert problems == []


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_read_by_the_recipe(name: str) -> None:
    for recipe in registry.recipes_of_config(name):
        keys = registry.config_keys(registry.recipe_file(recipe))
        assert registry.missing_keys(recipe.name, load(name)) is None
        assert keys, f"{recipe.file_path} declares no CONFIG_KEYS"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert check_keys(load(name), keys, strict=True) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_valid(name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*bitsandbytes is not installed|.*No module named 'bitsandbytes'")
        validate(load(name))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_an_optional_package_that_is_missing_is_named_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    from torchtune.config import instantiate

    cfg = load("llama3/8B_full_single_device")
    with pytest.warns(UserWarning, match="optimizer.*pip install bitsandbytes.*torchao.optim.AdamW8bit"):
        validate(cfg)
    with pytest.raises(InstantiationError, match="pip install bitsandbytes"):
        instantiate(cfg.optimizer, [])


def test_every_recipe_and_config_of_torchtune_is_there() -> None:
    """Facts: the registry of pytorch/torchtune."""
    known = json.loads((ROOT / "tests" / "assets" / "recipes" / "upstream_names.json").read_text())
    recipes = {recipe.name: recipe for recipe in registry.get_all_recipes()}
    known = {name: facts for name, facts in known.items() if name not in ABSENT}
    assert set(known) <= set(recipes)
    for name, facts in known.items():
        assert recipes[name].supports_distributed == facts["distributed"]
        assert set(facts["configs"]) - {config.name for config in recipes[name].configs} <= NO_CONFIG


@pytest.mark.parametrize("model", [f"{family}/{size}" for family, sizes in CALLING.items() for size in sizes])
def test_tool_calls_are_trained_with_adapters_and_with_all_weights(model: str) -> None:
    adapter, full = (load(f"{model}_{method}_tool_calling") for method in ("lora", "full"))
    assert ".lora_" in adapter.model._component_ and ".lora_" not in full.model._component_
    # a family's own format, and calls in the run's data and evaluation
    assert adapter.tokenizer == full.tokenizer and get_format(full.tokenizer.chat_format)
    assert adapter.dataset == full.dataset and adapter.eval_tool_calls == full.eval_tool_calls
    recipes = {recipe.name for recipe in registry.recipes_of_config(f"{model}_full_tool_calling")}
    assert "full_finetune_distributed" in recipes


def test_a_setting_sets_or_leaves_out() -> None:
    values: dict[str, Any] = {"a": {"b": 1, "c": 2}}
    apply(values, "-a.b a.d=[x,y] e=${a.c} f=2e-5 g=null")
    assert values == {"a": {"c": 2, "d": ["x", "y"]}, "e": "${a.c}", "f": "2e-5", "g": None}


@pytest.mark.parametrize("setting", ["a", "-b", "-a.b"])
def test_a_setting_that_does_nothing_is_an_error(setting: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        apply({"a": {}}, setting)
