"""Transforms: sample in, sample out."""

from torchtune.modules.transforms._transforms import Transform, VisionCrossAttentionMask

__all__ = ["Transform", "VisionCrossAttentionMask"]
