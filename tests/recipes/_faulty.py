"""Components that fail on purpose, for configs of tests (``_component_=_faulty.NanOnce``)."""

from __future__ import annotations

import os
from typing import Any

import torch

from torchtune.datasets import tool_calling_dataset
from torchtune.modules.loss import LinearCrossEntropyLoss
from torchtune.rlhf.loss import DPOLoss
from torchtune.rlhf.tools import Episode, FormatReward


class NanOnce(LinearCrossEntropyLoss):
    """A loss that is NaN at one of its calls, from 0."""

    def __init__(self, at: int = 1) -> None:
        super().__init__()
        self.calls, self.at = 0, at

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().forward(*args, **kwargs)
        self.calls += 1
        return loss * float("nan") if self.calls == self.at + 1 else loss


class NanPairsOnce(DPOLoss):
    """A loss on pairs that is NaN at its second call."""

    calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        losses, chosen, rejected = super().forward(*args, **kwargs)
        self.calls += 1
        return losses * float("nan") if self.calls == 2 else losses, chosen, rejected


class NanReward(FormatReward):
    """A reward that is NaN for answers to one question."""

    def score(self, episode: Episode) -> float:
        return float("nan") if episode.messages and "What is 3 +" in episode.messages[0].text_content else 1.0


class _DiesOnRankOne:
    packed = False

    def __init__(self, rows: Any, how: str) -> None:
        self.rows, self.how, self.read = rows, how, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        if os.environ.get("RANK") == "1" and self.read > 4:
            if self.how == "kill":
                os.kill(os.getpid(), 9)
            raise ValueError("row 17 is broken")
        return self.rows[index]


def dies_on_rank_one(tokenizer: Any, how: str = "raise", **options: Any) -> Any:
    """The quickstart's rows, whose reading fails on rank 1."""
    return _DiesOnRankOne(tool_calling_dataset(tokenizer, **options), how)
