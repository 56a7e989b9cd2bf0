"""Linear layers with 4-bit weights."""

from torchtune.modules.low_precision.nf4_linear import FrozenNF4Linear

__all__ = ["FrozenNF4Linear"]
