"""Between sampled conversations and the loss: batches, log-probabilities, advantages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from torchtune.rlhf.sequence_processing import batched_logits_to_logprobs
from torchtune.rlhf.tools._episode import Episode

#: Added to the deviation of a group's rewards.
_EPS = 1e-4


def as_batch(
    episodes: Sequence[Episode], pad_id: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids ``[b, s]``, padded at the end, and a mask ``[b, s - 1]``, True where the next id was sampled by the model."""
    for episode in episodes:
        episode.check()
    longest = max(len(episode.context) for episode in episodes)
    tokens = torch.full((len(episodes), longest), pad_id, dtype=torch.long)
    sampled = torch.zeros(len(episodes), longest, dtype=torch.bool)
    for row, episode in enumerate(episodes):
        start, stop = len(episode.prompt), len(episode.context)
        tokens[row, :stop] = torch.tensor(episode.context)
        sampled[row, start:stop] = torch.tensor(episode.sampled)
    return tokens.to(device), sampled[:, 1:].to(device)


def token_logprobs(model: Any, tokens: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability ``[b, s - 1]`` of each token ``[b, s]`` after the first; a ``temperature`` of 0 counts as 1."""
    return batched_logits_to_logprobs(model(tokens[:, :-1]), tokens[:, 1:], temperature or 1.0, chunk_size=1)


def alike(rewards: torch.Tensor) -> bool:
    """Whether the rewards ``[g]`` of a group are all the same: nothing is learned from it."""
    return bool(rewards.max() - rewards.min() < 1e-6)


def group_advantages(
    rewards: torch.Tensor, scale: str = "group", deviation: torch.Tensor | None = None
) -> torch.Tensor:
    """By how much each answer is better than the others of its group ``[n, g]``; 0 in a group of equal rewards."""
    centred = rewards - rewards.mean(-1, keepdim=True)
    centred[[alike(group) for group in rewards]] = 0.0
    if scale == "none":
        return centred
    if scale == "batch":
        return centred / ((rewards.std() if deviation is None else deviation) + _EPS)
    if scale != "group":
        raise ValueError(f"scale_rewards is {scale!r}; expected 'group', 'batch' or 'none'")
    return centred / (rewards.std(-1, keepdim=True) + _EPS)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """A sharded model keeps its weights together between forward passes, as generation runs many; afterwards as before."""
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()
