"""Grade-school maths (GSM8K, https://huggingface.co/datasets/openai/gsm8k) for GRPO, and for the SFT before it."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from torchtune.data import InputOutputToMessages
from torchtune.datasets import SFTDataset
from torchtune.dev.grpo.data import ReasoningProblem, RLDataset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torchtune.modules.transforms.tokenizers import ModelTokenizer

PREAMBLE_PROMPT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think></think> and <answer></answer> tags, respectively, i.e., "
    "<think>reasoning process here</think> <answer>answer here</answer>. User: {question} Assistant: "
)
TRAINABLE_PROMPT = "<think>{cot}</think> <answer>{answer}</answer>"
_PARTITION = re.compile(r"(\d+)-(\d+)/(\d+)")


def normalize_gsm(problem: dict[str, str]) -> ReasoningProblem:
    """A GSM8K row as a problem: its ``answer`` is the chain of thought, ``####``, and the number.

    Args:
        problem: a row with ``question`` and ``answer``.
    """
    cot, _, answer = problem["answer"].partition("#### ")
    return {"question": problem["question"], "cot": cot, "answer": answer}


def sft_gsm_transform(problem: dict[str, str]) -> dict[str, str]:
    """A GSM8K row as a ``preamble``, not trained, and a ``trainable`` answer.

    Args:
        problem: a row with ``question`` and ``answer``.
    """
    parts = normalize_gsm(problem)
    preamble = PREAMBLE_PROMPT.format(question=parts["question"])
    return {"preamble": preamble, "trainable": TRAINABLE_PROMPT.format(cot=parts["cot"], answer=parts["answer"])}


def _in_partition(row: Any, index: int, *, first: int, last: int, total: int) -> bool:
    return first <= index % total <= last


def _load(
    build: Callable[..., Any],
    filter_fn: Callable[..., Any] | None,
    partition: str | None,
    **kwargs: Any,
) -> Any:
    """Builds a dataset of a part of the rows: "1-9/10" is all but every tenth, beginning with the first."""
    if partition is None:
        return build(filter_fn=filter_fn, **kwargs)
    match = _PARTITION.fullmatch(partition)
    if match is None:
        raise ValueError(f"partition is {partition!r}; expected FIRST-LAST/TOTAL, such as '1-9/10'")
    if filter_fn is not None:
        raise ValueError("partition and filter_fn cannot both be given; choose the rows in filter_fn alone")
    first, last, total = map(int, match.groups())
    chosen = partial(_in_partition, first=first, last=last, total=total)
    return build(filter_fn=chosen, filter_kwargs={"with_indices": True}, **kwargs)


def gsm8k_dataset(
    tokenizer: ModelTokenizer,
    *,
    source: str = "openai/gsm8k",
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    name: str = "main",
    partition: str | None = None,
    **load_dataset_kwargs: Any,
) -> RLDataset:
    """The questions of GSM8K as prompts, tokenized, with their answers. See :func:`~torchtune.datasets.chat_dataset`.

    Args:
        name: the configuration on the hub.
        partition: a part of the rows: ``"1-9/10"`` has those whose index, modulo 10, is 1 to 9.

    Raises:
        ValueError: if ``partition`` is not of that form, or given beside ``filter_fn``.
    """
    build = partial(RLDataset, problem_transform=normalize_gsm, tokenizer=tokenizer)  # type: ignore[arg-type]
    return _load(build, filter_fn, partition, source=source, split=split, name=name, **load_dataset_kwargs)


class _GsmToMessages:
    """A GSM8K row as a conversation of preamble and answer."""

    def __init__(self) -> None:
        self._to_messages = InputOutputToMessages(column_map={"input": "preamble", "output": "trainable"})

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._to_messages(sft_gsm_transform(dict(sample)))


def gsm8k_sft(
    tokenizer: ModelTokenizer,
    *,
    source: str = "openai/gsm8k",
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    name: str = "main",
    partition: str | None = None,
    **load_dataset_kwargs: Any,
) -> SFTDataset:
    """GSM8K for supervised fine-tuning, in the form that the rewards ask for; see :func:`gsm8k_dataset`."""
    build = partial(SFTDataset, message_transform=_GsmToMessages(), model_transform=tokenizer)  # type: ignore[arg-type]
    return _load(build, filter_fn, partition, source=source, split=split, name=name, **load_dataset_kwargs)
