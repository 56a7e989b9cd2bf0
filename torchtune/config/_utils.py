"""Components by path, command-line overrides, and the config in the log."""

from __future__ import annotations

import importlib
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, MutableMapping
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from torchtune.config._errors import OPTIONAL_PACKAGES, InstantiationError
from torchtune.config._secrets import without_secrets
from torchtune.utils._logging import get_logger, log_rank_zero
from torchtune.utils._text import nearest


def log_config(recipe_name: str, cfg: DictConfig) -> None:
    """Logs a config with its interpolations resolved, on rank zero; tokens and keys are hidden.

    Args:
        recipe_name: the recipe's name, for the headline.
        cfg: the parsed config.
    """
    plain = without_secrets(OmegaConf.to_container(cfg, resolve=True))
    shown = OmegaConf.to_yaml(OmegaConf.create(plain), sort_keys=True)
    log_rank_zero(get_logger("INFO"), f"Running {recipe_name} with resolved config:\n\n{shown}")


def _has_component(node: dict[str, Any] | DictConfig) -> bool:
    """Whether a node names a component to build."""
    return isinstance(node, Mapping) and "_component_" in node


def _get_component_from_path(path: str, caller_globals: dict[str, Any] | None = None) -> Any:
    """The object at a dotted path such as ``torchtune.models.llama3.llama3_8b``.

    A single name is a module, or else a name among the caller's globals. The working directory is searched last.

    Args:
        path: the dotted path.
        caller_globals: where a single name is looked up; default the globals of the calling module.

    Raises:
        InstantiationError: if nothing is found there.
        ValueError: if a part of the path is empty, as in a relative import.
    """
    if not isinstance(path, str) or not path:
        raise InstantiationError(f"Invalid path: '{path}'. Expected a dotted path such as 'torch.optim.AdamW'.")
    parts = path.split(".")
    if not all(parts):
        raise ValueError(f"Error loading '{path}'. Invalid dotstring. Relative imports are not supported.")
    if not all(part.isidentifier() for part in parts):
        raise InstantiationError(f"Invalid path: '{path}'. Expected a dotted path such as 'torch.optim.AdamW'.")
    if len(parts) == 1:
        return _single_name(path, sys._getframe(1).f_globals if caller_globals is None else caller_globals)
    found: Any = _import(parts[0])
    for depth, part in enumerate(parts[1:], start=2):
        parent = ".".join(parts[: depth - 1])
        if not hasattr(found, part):
            last = depth == len(parts)
            found = _submodule(found, parent, part, last)
        else:
            found = getattr(found, part)
    return found


def _single_name(name: str, scope: dict[str, Any]) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        if name in scope:
            return scope[name]
    raise InstantiationError(f"Could not resolve '{name}': not a module and not found in the caller's globals.")


def _submodule(found: Any, parent: str, part: str, last: bool) -> Any:
    """The submodule ``part``; where there is none, says whether a module or an attribute is missing."""
    name = f"{parent}.{part}"
    if isinstance(found, ModuleType):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not last or not name.startswith(str(error.name)):
                raise InstantiationError(f"Could not import module '{name}': {error}") from error
        except ImportError as error:
            raise InstantiationError(f"Could not import module '{name}': {error}") from error
    kind = "Module" if isinstance(found, ModuleType) else "Object"
    raise InstantiationError(f"{kind} '{parent}' has no attribute '{part}'.{nearest(part, dir(found))}")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        here = os.getcwd()
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        if missing and here not in sys.path:
            sys.path.append(here)  # a component in a file beside the config, as in `python recipe.py`
            return _import(name)
        hint = f". To use it: {OPTIONAL_PACKAGES[name]}" if missing and name in OPTIONAL_PACKAGES else ""
        raise InstantiationError(f"Could not import module '{name}': {error}{hint}") from error


def _merge_yaml_and_cli_args(yaml_args: Namespace, cli_args: list[str]) -> DictConfig:
    """A config with command-line overrides applied in order.

    ``key=value`` sets a dotted key (the value is YAML; ``None`` is null, keys are added to a section's, a list replaces it),
    ``component=path`` replaces what a section builds and keeps its arguments, ``~key`` removes a key.

    Args:
        yaml_args: the config's values.
        cli_args: the overrides.

    Raises:
        ValueError: for an override of another form, a value that is not YAML, or the removal of a missing key
            or of a component.
        TypeError: for the removal of a key below a plain value.
    """
    conf = OmegaConf.create(vars(yaml_args))
    for arg in cli_args:
        if arg.startswith("~"):
            try:
                _remove_key_by_dotpath(conf, arg[1:])  # type: ignore[arg-type]
            except KeyError as error:
                raise ValueError(f"Could not find key {arg[1:]} in yaml config to remove: {error}") from error
            continue
        key, equals, text = arg.partition("=")
        if not equals or not key:
            raise ValueError(f"Command-line overrides must be in the form of key=value, got '{arg}'")
        value = _parse_value(key, text)
        before: Any = None if value is None else OmegaConf.select(conf, key)
        if isinstance(value, str) and _has_component(before):
            key += "._component_"
        # keys go to those that are there; what else there is, such as a list where keys come now, is replaced
        merge = isinstance(value, dict) and isinstance(before, DictConfig)
        OmegaConf.update(conf, key, value, merge=merge, force_add=True)
    return conf


def _parse_value(key: str, text: str) -> Any:
    if text == "None":
        return None
    if key.endswith("max_filename"):  # zeros in front count: '00012' is no number
        return text.strip("'\"")
    try:
        parsed = OmegaConf.from_dotlist([f"value={text}"])
    except YAMLError as error:
        hint = "quote the value, as in key=\"'text'\""
        raise ValueError(f"The value of the override '{key}={text}' is not valid YAML ({hint}): {error}") from error
    return OmegaConf.to_container(parsed, resolve=False)["value"]  # type: ignore[call-overload,index]


def _remove_key_by_dotpath(nested_dict: dict[str, Any], dotpath: str) -> None:
    """Removes a key such as ``optimizer.fused``, in place.

    Args:
        nested_dict: the config.
        dotpath: the dotted key.

    Raises:
        KeyError: if a part of the path is missing.
        TypeError: if the path goes through a value that has no keys.
        ValueError: if the key is a whole component.
    """
    *path, last = dotpath.split(".")
    node: Any = nested_dict
    for depth, part in enumerate([*path, last]):
        if not isinstance(node, MutableMapping):
            at = ".".join(path[:depth])
            raise TypeError(f"'{type(node).__name__}' object is not subscriptable: '{at}' has no keys, so no '{part}'")
        if part not in node:
            raise KeyError(f"no key '{part}' on the way to '{dotpath}'.{nearest(part, node)}")
        if depth < len(path):
            node = node[part]
    if last == "_component_" or _has_component(node[last]):
        raise ValueError(f"Removing components from CLI is not supported: ~{dotpath}")
    del node[last]
