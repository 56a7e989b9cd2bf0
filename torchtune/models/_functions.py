"""Functions made from tables: with a name, a signature and a docstring of their own."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any


def make_function(
    name: str, module: str, parameters: list[Parameter], doc: str, body: Callable[..., Any], returns: Any
) -> Callable[..., Any]:
    """A function with this name, signature and docstring that calls ``body`` with every parameter by name."""
    signature = Signature(parameters, return_annotation=returns)

    def build(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}. Its signature is {name}{signature}") from None
        bound.apply_defaults()
        return body(**bound.arguments)

    build.__name__ = build.__qualname__ = name
    build.__module__ = module
    build.__doc__ = doc
    build.__signature__ = signature  # type: ignore[attr-defined]
    return build
