"""What a model says of pairs of answers, and the averages over a step that are logged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from torchtune.rlhf._types import ChosenRejectedOutputs
from torchtune.rlhf.sequence_processing import get_batch_log_probs

Model = Callable[[torch.Tensor], torch.Tensor]


def pair_outputs(
    model: Model, tokens: torch.Tensor, labels: torch.Tensor, *, average: bool = False, ignore_index: int = -100
) -> ChosenRejectedOutputs:
    """Runs a model (logits ``[2 * b, s, v]``) on chosen and rejected answers at once."""
    logits = model(tokens)
    chosen, rejected = get_batch_log_probs(logits, labels, ignore_index, average).chunk(2)  # type: ignore[arg-type]
    counted = (labels[:, 1:] != ignore_index).unsqueeze(-1)
    with torch.no_grad():
        means = [
            (part[:, :-1].mean(-1, keepdim=True) * mask).sum() / mask.sum().clamp(min=1)
            for part, mask in zip(logits.chunk(2), counted.chunk(2), strict=True)
        ]
    return ChosenRejectedOutputs(chosen, rejected, *means)


def mismatched(
    tokens: torch.Tensor, labels: torch.Tensor, *, pad_id: int, ignore_index: int = -100
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Each prompt with the answer to the prompt before it: what KTO estimates the KL divergence on.

    Ids and labels ``[b, s']`` from those of the conversations ``[b, s]``, padded at the end; an answer begins with the first
    label that counts. None where there are fewer than two answers.
    """
    prompts, answers = [], []
    for row, targets in zip(tokens, labels, strict=True):
        counted = (targets != ignore_index).nonzero().flatten()
        if len(counted):
            first, last = int(counted[0]), int(counted[-1]) + 1
            prompts.append(row[:first])
            answers.append((row[first:last], targets[first:last]))
    if len(prompts) < 2:
        return None
    answers = answers[-1:] + answers[:-1]
    ids = [torch.cat([prompt, answer]) for prompt, (answer, _) in zip(prompts, answers, strict=True)]
    pad = partial(F.pad, value=ignore_index)
    targets = [pad(counts, (len(prompt), 0)) for prompt, (_, counts) in zip(prompts, answers, strict=True)]
    return (
        torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad_id),
        torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=ignore_index),
    )
