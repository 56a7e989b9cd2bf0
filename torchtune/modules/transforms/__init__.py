"""Transforms: sample in, sample out."""

from torchtune.modules.transforms._transforms import Transform

__all__ = ["Transform"]
