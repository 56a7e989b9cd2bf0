"""Constants of the data package."""

from __future__ import annotations

#: The label that losses leave out.
CROSS_ENTROPY_IGNORE_IDX = -100
