from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def get_logger(level: str | None = None) -> logging.Logger:
    """The logger of the package, writing to stderr unless the program has set up logging itself.

    Args:
        level: a level's name such as ``"INFO"`` or ``"debug"``; None leaves it as it is.

    Returns:
        The logger named ``torchtune``.

    Raises:
        ValueError: if there is no such level.
    """
    logger = logging.getLogger("torchtune")
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s:%(name)s:%(message)s"))
        logger.addHandler(handler)
    if level is not None:
        number = logging.getLevelName(level.upper())
        if not isinstance(number, int):
            raise ValueError(f"Unknown log level '{level}', expected DEBUG, INFO, WARNING, ERROR or CRITICAL")
        logger.setLevel(number)
    return logger


def process_rank() -> int:
    """The rank of this process, without importing torch: the process group's, else torchrun's, else 0."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", 0))


def log_rank_zero(logger: logging.Logger, msg: str, level: int = logging.INFO) -> None:
    """Logs on rank zero only, as if from the caller's line.

    Args:
        logger: where to.
        msg: the message.
        level: a level of :mod:`logging`.
    """
    if process_rank() == 0:
        logger.log(level, msg, stacklevel=2)


@functools.lru_cache(None)
def log_once(logger: logging.Logger, msg: str, level: int = logging.INFO) -> None:
    """Logs a message on rank zero the first time it is given; later calls do nothing.

    Args:
        logger: where to.
        msg: the message.
        level: a level of :mod:`logging`.
    """
    log_rank_zero(logger, msg, level)


def deprecated(msg: str = "") -> Callable[[T], T]:
    """Decorates a class or function: its first use on rank zero gives a FutureWarning.

    Args:
        msg: what to use instead, added to the warning.

    Returns:
        The decorator; what it decorates keeps its name, signature and docstring.
    """

    def decorate(obj: T) -> T:
        text = f"{obj.__name__} is deprecated and will be removed in future versions. {msg}"  # type: ignore[attr-defined]
        return _wrap(obj, lambda bound: True, text)

    return decorate


def deprecate_parameter(param_name: str, msg: str = "") -> Callable[[T], T]:
    """Decorates a class or function: the first use of one parameter on rank zero gives a FutureWarning.

    Args:
        param_name: the parameter that goes.
        msg: what to use instead, added to the warning.

    Returns:
        The decorator; what it decorates keeps its name, signature and docstring.
    """

    def decorate(obj: T) -> T:
        text = (
            f"{param_name} is deprecated for {obj.__name__} "  # type: ignore[attr-defined]
            f"and will be removed in future versions. {msg}"
        )
        return _wrap(obj, lambda given: given.get(param_name) is not None, text)

    return decorate


def _wrap(obj: T, concerned: Callable[[dict[str, Any]], bool], text: str) -> T:
    """Warns once before calls that are concerned; a class stays the same class, with another ``__init__``."""
    is_class = isinstance(obj, type)
    inner: Callable[..., Any] = obj.__init__ if is_class else obj  # type: ignore[misc,assignment]
    signature = inspect.signature(inner)
    warned = False

    @functools.wraps(inner)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal warned
        if not warned and process_rank() == 0:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:  # the call itself says it better
                given = {}
            if concerned(given):
                warned = True
                warnings.warn(text, category=FutureWarning, stacklevel=2)
        return inner(*args, **kwargs)

    if is_class:
        obj.__init__ = wrapper  # type: ignore[misc]
        return obj
    return wrapper  # type: ignore[return-value]
