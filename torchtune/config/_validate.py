"""Checks of a whole config: components and their arguments, and keys that nobody reads."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from torchtune.config._errors import OPTIONAL_PACKAGES, ConfigError, InstantiationError, Where, describe, where_of
from torchtune.config._instantiate import argument_problems, resolve_component
from torchtune.config._utils import _has_component
from torchtune.utils._logging import process_rank
from torchtune.utils._text import nearest

_INTERPOLATION = re.compile(r"\$\{([^${}:]+)\}")


def validate(cfg: DictConfig) -> None:
    """Checks that every component of a config exists and takes the arguments it is given; builds nothing.

    Arguments that are missing are no error: recipes add some when they build. A component of an optional package that is
    not installed gives a warning, which says how to get it.

    Args:
        cfg: the parsed config.

    Raises:
        InstantiationError: if a component cannot be found.
        ConfigError: if a component does not take an argument; lists every one.
    """
    missing: list[InstantiationError] = []
    wrong: list[Exception] = []
    container = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    for where, node in _components(container, where_of(cfg)):
        try:
            component = resolve_component(node["_component_"], {}, where)
        except InstantiationError as error:
            package = str(node["_component_"]).partition(".")[0]
            if package in OPTIONAL_PACKAGES and importlib.util.find_spec(package) is None:
                warnings.warn(f"{error}. Its arguments were not checked.", stacklevel=2)
            else:
                missing.append(error)
            continue
        kwargs = {k: v for k, v in node.items() if k != "_component_"}
        wrong += [_located(p, where) for p in argument_problems(component, (), kwargs, partial=True)]
    if missing:
        first, *others = missing
        more: list[Exception] = [*others, *wrong]
        first.also = "\n".join(map(describe, more))  # type: ignore[attr-defined]
        raise first
    if wrong:
        raise ConfigError(wrong)


def _located(problem: str, where: Where) -> TypeError:
    error = TypeError(problem)
    error.where = where  # type: ignore[attr-defined]
    return error


def _components(node: Any, where: Where) -> Iterator[tuple[Where, dict[str, Any]]]:
    """All sections that name a component, outer ones first."""
    if isinstance(node, dict):
        if _has_component(node):
            yield where, node
        for key, value in node.items():
            yield from _components(value, where.child(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _components(value, where.child(index))


def check_keys(cfg: DictConfig, known_keys: Iterable[str], *, strict: bool | None = None) -> list[str]:
    """Warns, on rank zero, of config keys that the recipe does not read, most often misspelled.

    Arguments of components are not looked at (their signatures are checked by :func:`validate` and when they are
    built), and neither are keys that an interpolation such as ``${model_dir}`` uses.

    Args:
        cfg: the parsed config.
        known_keys: what the recipe reads; a dotted key (``eval_tool_calls.dataset``) declares the keys inside a section,
            a plain one alone allows any.
        strict: True makes them an error; default the config's own ``strict`` key, else False.

    Returns:
        the unknown keys, dotted.

    Raises:
        ConfigError: under ``strict``, for all unknown keys at once.
    """
    known = {*known_keys, "strict"}
    unknown = [key for key in _unknown_keys(cfg, known) if key not in _interpolated(cfg)]
    if strict is None:
        strict = bool(cfg.get("strict", False))
    where = where_of(cfg)
    problems: list[Exception] = []
    for key in unknown:
        hint = nearest(key, known | {k.split(".")[0] for k in known}) or " The recipe does not read it."
        message = f"unknown config key '{key}'.{hint}"
        problems.append(ValueError(where.prefix(message)))
    if strict and problems:
        raise ConfigError(problems)
    for problem in problems if process_rank() == 0 else ():
        warnings.warn(str(problem), stacklevel=2)
    return unknown


def _unknown_keys(cfg: DictConfig, known: set[str]) -> list[str]:
    tops = {key.split(".")[0] for key in known}
    unknown = [key for key in map(str, cfg) if key not in tops]
    for section in {key.split(".")[0] for key in known if "." in key}:
        node = cfg.get(section)
        if isinstance(node, DictConfig) and not _has_component(node):
            inner = {key.partition(".")[2].split(".")[0] for key in known if key.startswith(f"{section}.")}
            unknown += [f"{section}.{key}" for key in map(str, node) if key not in inner]
    return unknown


def _interpolated(cfg: DictConfig) -> set[str]:
    """The top-level keys that other values of the config refer to."""
    text = OmegaConf.to_yaml(cfg, resolve=False)
    return {match.split(".")[0].split("[")[0] for match in _INTERPOLATION.findall(text)}
