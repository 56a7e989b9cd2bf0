"""Tools that tests call: good ones and bad ones."""

from __future__ import annotations

import os
import time
from typing import Any, Literal


def add(a: float, b: float) -> float:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    print("a tool may print")
    return a + b


def find(name: str, kinds: list[str] | None = None, unit: Literal["km", "mi"] = "km") -> dict[str, Any]:
    """Find a place.

    It may take a moment.

    Args:
        name: what it is called,
            in full.
        kinds (list): what it may be.

    Returns:
        what was found
    """
    return {"name": name, "kinds": kinds, "unit": unit}


def hang(seconds: float = 3600.0) -> str:
    """Never come back."""
    time.sleep(seconds)
    return "awake"


def wait_together(folder: str, number: int, count: int) -> str:
    """Come back once so many others run too."""
    open(os.path.join(folder, str(number)), "w").close()
    while len(os.listdir(folder)) < count:
        time.sleep(0.01)
    return "together"


def fail(reason: str) -> None:
    """Raise."""
    raise RuntimeError(reason)


def leave() -> None:
    """End the process."""
    os._exit(3)


def flood() -> str:
    """Return 10 MB."""
    return "x" * 10_000_000


def odd() -> Any:
    """Return what is no JSON."""
    return {1, 2}


class Shop:
    """An environment with a state."""

    def __init__(self, stock: int = 2) -> None:
        self.stock = stock

    def reset(self, row: dict[str, Any]) -> None:
        self.sold: list[str] = []
        self.wanted = row["wanted"]

    def buy(self, what: str) -> str:
        """Buy a thing.

        Args:
            what: its name.
        """
        if len(self.sold) >= self.stock:
            raise ValueError("sold out")
        self.sold.append(what)
        return f"bought {what}, {len(self.sold)} in all"

    def sleep(self) -> None:
        """Never come back."""
        time.sleep(3600)

    def reward(self) -> float:
        return float(self.sold == self.wanted)
