"""Problems with a known answer, as prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch.utils.data import Dataset

from torchtune.data import left_pad_sequence
from torchtune.datasets._rows import load_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torchtune.modules.transforms import Transform
    from torchtune.modules.transforms.tokenizers import ModelTokenizer

#: What stands around a question; the answer begins inside ``<think>``.
BASE_PROMPT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think></think> and <answer></answer> tags, respectively, i.e., "
    "<think>reasoning process here</think> <answer>answer here</answer>. User: %s. Assistant: <think>"
)


class ReasoningProblem(TypedDict):
    """A question, the chain of thought to its answer, and the answer."""

    question: str
    cot: str
    answer: str


class RLDataset(Dataset):
    """Prompts with the answers that they should lead to. See :class:`~torchtune.datasets.SFTDataset`.

    Args:
        problem_transform: row to :class:`ReasoningProblem`.
        tokenizer: a model tokenizer.
    """

    def __init__(
        self,
        *,
        source: str,
        problem_transform: Transform,
        tokenizer: ModelTokenizer,
        filter_fn: Callable[..., Any] | None = None,
        filter_kwargs: dict[str, Any] | None = None,
        **load_dataset_kwargs: Any,
    ) -> None:
        self._problem_transform = problem_transform
        self._tokenizer = tokenizer
        self._data = load_rows(source, filter_fn=filter_fn, filter_kwargs=filter_kwargs, **load_dataset_kwargs)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``tokens`` of :data:`BASE_PROMPT` with the question, ``mask`` (all 1), and the ``answer`` as text."""
        problem = self._problem_transform(self._data[index])
        tokens = self._tokenizer.encode(BASE_PROMPT % problem["question"], add_eos=False)  # type: ignore[attr-defined]
        return {"tokens": tokens, "mask": [1] * len(tokens), "answer": problem["answer"]}


def padded_collate_rl(
    batch: list[dict[str, Any]], padding_idx: int = 0, ignore_idx: int = -100
) -> dict[str, torch.Tensor | list[str]]:
    """A batch of prompts: ``tokens`` ``[b, s]``, padded at the left, and the list of ``answers``.

    Args:
        batch: samples with ``tokens`` and ``answer``.
        padding_idx: id to pad with.
        ignore_idx: not used, as prompts have no labels.
    """
    tokens = [torch.tensor(sample["tokens"], dtype=torch.long) for sample in batch]
    padded = left_pad_sequence(tokens, batch_first=True, padding_value=padding_idx)
    return {"tokens": padded, "answers": [sample["answer"] for sample in batch]}
