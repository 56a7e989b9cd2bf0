"""Order of tokens for expert parallelism."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["generate_permute_indices"]


def generate_permute_indices(
    tokens_per_expert_group: Tensor, experts_per_rank: int, num_ranks: int, alignment: int, use_cpu: bool = False
) -> tuple[Tensor, Tensor]:
    """The places of each expert's tokens among those received from all ranks, and the size of each expert's list; int32.

    Tokens arrive sorted by sending rank, then by expert. The result lists them by expert, then by rank, each expert's
    list filled up with -1 to a multiple of ``alignment``.

    Args:
        tokens_per_expert_group (Tensor): tokens of each rank for each local expert, ``[num_ranks * experts_per_rank]``.
        experts_per_rank (int): experts on this rank.
        num_ranks (int): ranks that send.
        alignment (int): of the size of each expert's list.
        use_cpu (bool): compute on the CPU; the result is on the input's device all the same.
    """
    device = tokens_per_expert_group.device
    counts = tokens_per_expert_group.to("cpu" if use_cpu else device).long()
    starts = (counts.cumsum(0) - counts).view(num_ranks, experts_per_rank)
    counts = counts.view(num_ranks, experts_per_rank)
    totals = counts.sum(0)
    sizes = (totals + alignment - 1) // alignment * alignment
    group_counts = counts.t().reshape(-1)
    source = torch.repeat_interleave(starts.t().reshape(-1), group_counts)
    first = torch.repeat_interleave(group_counts.cumsum(0) - group_counts, group_counts)
    number = torch.arange(source.numel(), device=source.device)
    # A token's place: its number among all, moved by the fillers of the experts before its own.
    fillers = torch.repeat_interleave((sizes - totals).cumsum(0) - (sizes - totals), totals)
    indexes = torch.full((int(sizes.sum()),), -1, dtype=torch.int64, device=source.device)
    indexes[number + fillers] = source + number - first
    return indexes.to(device=device, dtype=torch.int32), sizes.to(device=device, dtype=torch.int32)
