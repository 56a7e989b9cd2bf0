"""Positions for pooling over sequences."""

from __future__ import annotations

import torch


def get_unmasked_sequence_lengths(mask: torch.Tensor) -> torch.Tensor:
    """The index ``[b]`` of each sequence's last token that isn't masked; 0 where all of it is.

    Args:
        mask: ``[b, s]``, True where a token is masked (padding).
    """
    # The running count of unmasked tokens is largest first at the last of them.
    return (~mask).cumsum(dim=-1).argmax(dim=-1).to(mask.device, dtype=torch.long)
