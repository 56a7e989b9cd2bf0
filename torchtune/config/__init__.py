"""YAML to objects: parse a recipe's command line, build the components a config names, check a config."""

from __future__ import annotations

import omegaconf
from omegaconf import OmegaConf

from torchtune import _recipe_registry
from torchtune.config._errors import ConfigError, InstantiationError
from torchtune.config._instantiate import instantiate
from torchtune.config._parse import parse
from torchtune.config._utils import log_config
from torchtune.config._validate import check_keys, validate

__all__ = ["ConfigError", "InstantiationError", "check_keys", "instantiate", "log_config", "parse", "validate"]

# `${recipes:quickstart/data}` in a config is a path in the installed recipes folder. OmegaConf 2.4 renamed the function.
_register = OmegaConf.register_new_resolver if omegaconf.__version__.startswith("2.3") else OmegaConf.register_resolver
_register("recipes", lambda path="": str(_recipe_registry.recipes_root() / path), replace=True)
