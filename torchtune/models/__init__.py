"""Models, a folder per family, and ``from_pretrained``; each loads when it is first used."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "from_pretrained":
        return importlib.import_module(f"{__name__}._from_pretrained").from_pretrained
    if name in __dir__():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    families = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return sorted([*families, "from_pretrained"])
