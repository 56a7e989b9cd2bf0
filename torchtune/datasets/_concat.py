"""Datasets one after another."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Any

from torch.utils.data import Dataset


class ConcatDataset(Dataset):
    """Several datasets as one, in order; samples stay where they are until asked for.

    Args:
        datasets: the datasets: all packed, or none.

    Raises:
        ValueError: if some are packed and some are not.
    """

    def __init__(self, datasets: list[Dataset[Any]]) -> None:
        self._datasets = datasets
        packed = [bool(getattr(ds, "packed", False)) for ds in datasets]
        if any(packed) and not all(packed):
            names = ", ".join(
                f"{i} ({type(datasets[i]).__name__})" for i, is_packed in enumerate(packed) if not is_packed
            )
            raise ValueError(f"ConcatDataset can't mix packed and unpacked datasets: these are not packed: {names}")
        #: True if the datasets are packed, and batches must be collated so.
        self.packed = any(packed)
        self._ends = list(accumulate(len(ds) for ds in datasets))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Any:
        """The sample at ``index``, counted from the end if negative."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} samples")
        index %= len(self)
        which = bisect_right(self._ends, index)
        return self._datasets[which][index - (self._ends[which - 1] if which else 0)]
