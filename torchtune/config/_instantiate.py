"""Builds what a config names."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from torchtune.config._errors import InstantiationError, Where, where_of
from torchtune.config._utils import _get_component_from_path, _has_component
from torchtune.utils._text import nearest


def instantiate(
    config: dict[str, Any] | DictConfig,
    *args: Any,
    caller_globals: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Builds the component that a config section names, and all components inside it.

    Args:
        config: a mapping with ``_component_``, the dotted path of something callable, and its arguments.
            None gives None.
        *args: positional arguments of the outermost component.
        caller_globals: where a ``_component_`` without dots is looked up; default the caller's globals.
        **kwargs: override or extend the section's arguments; mappings are merged.

    Returns:
        what the component returns.

    Raises:
        InstantiationError: if there is no ``_component_``, or it cannot be found.
        ValueError: if ``config`` is no mapping.
        TypeError: if the component does not take these arguments.

    Example:
        >>> instantiate({"_component_": "fractions.Fraction", "numerator": 3}, denominator=4)
        Fraction(3, 4)
    """
    if config is None or (isinstance(config, DictConfig) and config._is_none()):
        return None
    if not isinstance(config, (dict, DictConfig)):
        raise ValueError(f"instantiate only supports DictConfigs or dicts, got {type(config)}")
    where = where_of(config)
    if not _has_component(config):
        keys = ", ".join(map(str, config)) or "none"
        raise InstantiationError(
            f"Cannot instantiate specified object: it has no '_component_' key that says what to build (keys: {keys})",
            where,
        )
    scope = sys._getframe(1).f_globals if caller_globals is None else caller_globals
    return _instantiate_node(_resolved(config, kwargs), *args, caller_globals=scope, where=where)


def _instantiate_node(
    obj: Any, *args: Any, caller_globals: dict[str, Any] | None = None, where: Where | None = None
) -> Any:
    """Builds the components in a value, however deep; other values stay as they are."""
    where = where or where_of(obj)
    if isinstance(obj, (DictConfig, ListConfig)):
        obj = OmegaConf.to_container(obj, resolve=True)
    if isinstance(obj, list):
        return [_instantiate_node(v, caller_globals=caller_globals, where=where.child(i)) for i, v in enumerate(obj)]
    if not isinstance(obj, dict):
        return obj
    built = {
        k: _instantiate_node(v, caller_globals=caller_globals, where=where.child(k))
        for k, v in obj.items()
        if k != "_component_"
    }
    if not _has_component(obj):
        return built
    component = resolve_component(obj["_component_"], caller_globals or {}, where)
    for problem in argument_problems(component, args, built):
        raise TypeError(where.prefix(problem))
    try:
        return _create_component(component, args, built)
    except Exception as error:
        if str(where) and hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"while building {obj['_component_']} for {where}")
        raise


def _create_component(_component_: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a component."""
    return _component_(*args, **kwargs)


def resolve_component(path: Any, caller_globals: dict[str, Any], where: Where) -> Callable[..., Any]:
    """The callable at a path; errors say where in the config it stands."""
    try:
        component = _get_component_from_path(path, caller_globals)
    except InstantiationError as error:
        raise InstantiationError(error.message, where) from error.__cause__
    if not callable(component):
        raise InstantiationError(f"'{path}' is a {type(component).__name__}, not a class or function to call.", where)
    return component


def argument_problems(
    component: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, partial: bool = False
) -> list[str]:
    """What keeps a component from taking these arguments, one message each; with ``partial`` some may be missing."""
    try:
        signature = inspect.signature(component)
    except (ValueError, TypeError):  # builtins without one
        return []
    name = getattr(component, "__name__", str(component))
    parameters = signature.parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [] if takes_any else [k for k in kwargs if k not in named]
    hints = [nearest(k, named) for k in unknown]
    problems = [
        f"{name} got an unexpected keyword argument '{k}'" + (f".{hint}" if hint else "")
        for k, hint in zip(unknown, hints, strict=True)
    ]
    if not problems:
        try:
            (signature.bind_partial if partial else signature.bind)(*args, **kwargs)
        except TypeError as error:
            problems.append(f"{name}: {error}")
    return problems


def _resolved(config: dict[str, Any] | DictConfig, overrides: dict[str, Any]) -> dict[str, Any]:
    """The section as plain containers, overrides merged before interpolations are resolved.

    OmegaConf copies or refuses objects, and turns dataclasses into configs, so these go around it.
    """
    layers = [layer for layer in (config, overrides) if isinstance(layer, dict)]
    base = OmegaConf.create({}) if isinstance(config, dict) else config
    merged = OmegaConf.merge(base, *(_plain(layer) for layer in layers))
    container: Any = OmegaConf.to_container(merged, resolve=True)
    for layer in layers:
        _deep_update(container, _objects(layer))
    return container


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    primitive = (str, int, float, bool, bytes, Path, Enum, DictConfig, ListConfig)
    return value is None or isinstance(value, primitive)


def _plain(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a layer that OmegaConf can hold."""
    return {k: _plain(v) if isinstance(v, dict) else v for k, v in layer.items() if isinstance(v, dict) or _is_plain(v)}


def _objects(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a layer that OmegaConf cannot hold."""
    return {k: _objects(v) if isinstance(v, dict) else v for k, v in layer.items() if not _is_plain(v)}


def _deep_update(target: dict[str, Any], update: dict[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _deep_update(target[key], value)
        else:
            target[key] = value
