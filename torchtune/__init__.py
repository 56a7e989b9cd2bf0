"""Fine-tuning of language models in PyTorch, tool calls included.

Submodules load when they are first used: ``import torchtune`` itself imports neither torch nor any other library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune import datasets, generation, models, modules, utils

__version__ = "0.7.0"

_SUBMODULES = frozenset({"config", "data", "datasets", "generation", "models", "modules", "rlhf", "training", "utils"})

__all__ = ["datasets", "generation", "models", "modules", "utils"]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
