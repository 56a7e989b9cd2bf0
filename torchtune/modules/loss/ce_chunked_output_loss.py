"""Cross entropy of logits that come in pieces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules.loss.loss_types import SFTLoss, cross_entropy_sum, total_weight


def split_labels(labels: Tensor, chunks: list[Tensor]) -> list[Tensor]:
    """Cut labels ``[b, s]`` along the sequence into the lengths of ``chunks`` ``[b, c, v]``."""
    lengths = [chunk.shape[1] for chunk in chunks]
    if sum(lengths) != labels.shape[1]:
        raise ValueError(
            f"The logits have {sum(lengths)} positions (chunks of {lengths}), the labels {labels.shape[1]}; they must agree"
        )
    return list(labels.split(lengths, dim=1))


class CEWithChunkedOutputLoss(nn.Module, SFTLoss):
    """Cross entropy that upcasts one piece of the logits at a time, as a mean over tokens that are not ignored.

    :class:`~torchtune.modules.loss.LinearCrossEntropyLoss` needs still less memory.

    Args:
        num_output_chunks (int): pieces that the model is to return.
        ignore_index (int): target of tokens that don't count.
    """

    def __init__(self, num_output_chunks: int = 8, ignore_index: int = -100) -> None:
        super().__init__()
        self.num_output_chunks = num_output_chunks
        self.ignore_index = ignore_index

    def set_model_output(self, model: nn.Module) -> None:
        model.set_num_output_chunks(self.num_output_chunks)  # type: ignore[operator]

    def apply_compile_strategy(self, *args: Any, **kwargs: Any) -> CEWithChunkedOutputLoss:
        """Compile the cross entropy of one piece."""
        self.compute_cross_entropy = torch.compile(  # type: ignore[method-assign]
            self.compute_cross_entropy, *args, **kwargs
        )
        return self

    def compute_cross_entropy(
        self, logits: Tensor, labels: Tensor, normalize: bool = True, weights: Tensor | None = None
    ) -> Tensor:
        """The cross entropy of one piece, in fp32.

        Args:
            logits (Tensor): ``[n, v]``.
            labels (Tensor): ``[n]``.
            normalize (bool): the mean over tokens that count, not the sum.
            weights (Tensor | None): factors on the tokens' losses, ``[n]``.
        """
        loss = cross_entropy_sum(logits, labels, self.ignore_index, weights)
        return loss / total_weight(labels, self.ignore_index, weights) if normalize else loss

    def forward(  # type: ignore[override]
        self, logits: list[Tensor], labels: Tensor, *, weights: Tensor | None = None
    ) -> Tensor:
        """The mean over tokens that count, by their weights; 0 if there are none.

        Args:
            logits (list[Tensor]): pieces ``[b, c, v]`` along the sequence.
            labels (Tensor): ``[b, s]``.
            weights (Tensor | None): factors on the tokens' losses, ``[b, s]``.
        """
        losses = [
            self.compute_cross_entropy(
                chunk.reshape(-1, chunk.shape[-1]),
                target.reshape(-1),
                False,
                None if factors is None else factors.reshape(-1),
            )
            for chunk, target, factors in zip(
                logits,
                split_labels(labels, logits),
                [None] * len(logits) if weights is None else split_labels(weights, logits),
                strict=True,
            )
        ]
        return torch.stack(losses).sum() / total_weight(labels, self.ignore_index, weights)
