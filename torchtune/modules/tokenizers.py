"""The former home of the tokenizers; they are in :mod:`torchtune.modules.transforms.tokenizers` now."""

from __future__ import annotations

import warnings
from typing import Any

from torchtune.modules.transforms import tokenizers as _home


def __getattr__(name: str) -> Any:
    if name not in _home.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"torchtune.modules.tokenizers.{name} is deprecated; import it from torchtune.modules.transforms.tokenizers.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(_home, name)


def __dir__() -> list[str]:
    return _home.__all__
