"""What a transform is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Transform(Protocol):
    """Anything that takes a sample and gives a sample back, such as a tokenizer or an image transform."""

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """Gives the sample with its own keys added, changed or taken out."""
        ...
