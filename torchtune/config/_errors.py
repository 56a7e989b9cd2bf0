"""What can be wrong with a config, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import Container

_SOURCE = "_torchtune_source"

# Packages that configs name and users install themselves, and how, or what to do without.
OPTIONAL_PACKAGES = {
    "bitsandbytes": "pip install bitsandbytes (it needs a GPU), or choose another optimizer, such as "
    "optimizer=torchao.optim.AdamW8bit or optimizer=torch.optim.AdamW",
}


@dataclass(frozen=True)
class Where:
    """A place in a config: the dotted key, and the file if it is known."""

    key: str = ""
    file: str = ""

    def child(self, key: str | int) -> Where:
        """The place one level deeper; an integer is a list index."""
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if self.key else key
        return Where(self.key + step, self.file)

    def __str__(self) -> str:
        key = f"config key '{self.key}'" if self.key else ""
        return f"{key} in {self.file}" if key and self.file else key or self.file

    def prefix(self, message: str) -> str:
        """The message with the place before it, where there is one to tell."""
        return f"{self}: {message}" if str(self) else message


def where_of(config: Any) -> Where:
    """The place of a node of a parsed config; empty for plain dicts."""
    if not isinstance(config, Container):
        return Where()
    return Where(config._get_full_key(None) or "", config._get_root().__dict__.get(_SOURCE, ""))


def remember_source(config: Container, path: str) -> None:
    """Notes on a config which file it came from, so that errors can say it."""
    config.__dict__[_SOURCE] = path


class InstantiationError(Exception):
    """A component that a config names cannot be found or built.

    Args:
        message: what is wrong.
        where: where in the config, if known; shown before the message.
    """

    def __init__(self, message: str = "", where: Where | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where or Where()

    def __str__(self) -> str:
        return self.where.prefix(self.message)


class ConfigError(Exception):
    """Everything that is wrong with a config, in one error.

    Args:
        errors: the single errors; an attribute ``where`` on one is shown before it.

    Raises:
        ValueError: if ``errors`` is empty.
    """

    def __init__(self, errors: list[Exception]) -> None:
        if not errors:
            raise ValueError("ConfigError needs at least one error to report, got an empty list")
        self.errors = errors
        super().__init__("Config is not well-formed:\n" + "\n".join(describe(error) for error in errors))


def describe(error: Exception) -> str:
    """An error as lines: where it is, then its type and message."""
    where = str(getattr(error, "where", ""))
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    message = error.message if isinstance(error, InstantiationError) else str(error)
    return f"{where}:\n{name}: {message}" if where else f"{name}: {message}"
