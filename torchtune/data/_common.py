"""Constants of the data package."""

from __future__ import annotations

#: The label that losses leave out.
CROSS_ENTROPY_IGNORE_IDX = -100

#: Keys of a packed sample.
PACK_TYPE_KEYS = ("tokens", "labels", "input_pos", "seq_lens")
