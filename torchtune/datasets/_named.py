"""Datasets by name: a source, and the transform that its rows need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torchtune.data._masking import mask_messages, resolve_strategy
from torchtune.data._message import Message
from torchtune.data._transforms import AlpacaToMessages, ShareGPTToMessages, row_column
from torchtune.datasets._builders import instruct_dataset, named, sft_dataset, text_completion_dataset
from torchtune.datasets._preference import PreferenceDataset, preference_dataset
from torchtune.datasets._text_completion import TextCompletionDataset

if TYPE_CHECKING:
    from torchtune.datasets._packed import PackedDataset
    from torchtune.datasets._sft import SFTDataset
    from torchtune.modules.transforms.tokenizers import ModelTokenizer


def alpaca_dataset(
    tokenizer: ModelTokenizer,
    *,
    source: str = "tatsu-lab/alpaca",
    column_map: dict[str, str] | None = None,
    train_on_input: bool = True,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> SFTDataset | PackedDataset:
    """Stanford Alpaca: rows of ``instruction``, ``input`` and ``output``, in its prompt; see :func:`instruct_dataset`.

    Args:
        column_map: the rows' names for ``instruction``, ``input`` and ``output``.
        train_on_input: whether prompts are trained on, as Alpaca does.

    """
    transform = AlpacaToMessages(train_on_input=train_on_input, column_map=column_map)
    return sft_dataset(tokenizer, source, transform, packed, filter_fn=filter_fn, split=split, **load_dataset_kwargs)


alpaca_cleaned_dataset = named(
    "alpaca_cleaned_dataset",
    alpaca_dataset,
    "Alpaca with its errors mended (``yahma/alpaca-cleaned``); see :func:`alpaca_dataset`.",
    source="yahma/alpaca-cleaned",
)
grammar_dataset = named(
    "grammar_dataset",
    instruct_dataset,
    """Grammar correction: a faulty ``input``, a right ``output``; see :func:`instruct_dataset`.

    The prompt template meant for it is ``torchtune.data.GrammarErrorCorrectionTemplate``, given to the tokenizer.
    """,
    source="liweili/c4_200m",
)


def samsum_dataset(
    tokenizer: ModelTokenizer,
    *,
    source: str = "Samsung/samsum",
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> SFTDataset | PackedDataset:
    """Summaries of messenger chats: ``dialogue`` and ``summary``; see :func:`instruct_dataset`.

    The prompt template meant for it is ``torchtune.data.SummarizeTemplate``, given to the tokenizer.
    """
    return instruct_dataset(
        tokenizer,
        source=source,
        column_map=column_map or {"input": "dialogue", "output": "summary"},
        train_on_input=train_on_input,
        new_system_prompt=new_system_prompt,
        packed=packed,
        filter_fn=filter_fn,
        split=split,
        **load_dataset_kwargs,
    )


def slimorca_dataset(
    tokenizer: ModelTokenizer,
    *,
    source: str = "Open-Orca/SlimOrca-Dedup",
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> SFTDataset | PackedDataset:
    """SlimOrca: ShareGPT conversations under ``conversations``; see :func:`chat_dataset`.

    Args:
        column_map: the rows' name for ``conversations``.

    """
    transform = ShareGPTToMessages(
        train_on_input=train_on_input, column_map=column_map, new_system_prompt=new_system_prompt
    )
    return sft_dataset(tokenizer, source, transform, packed, filter_fn=filter_fn, split=split, **load_dataset_kwargs)


hh_rlhf_helpful_dataset = named(
    "hh_rlhf_helpful_dataset",
    preference_dataset,
    "Anthropic's helpful preferences in OpenAI form; see :func:`preference_dataset`.",
    source="RLHFlow/HH-RLHF-Helpful-standard",
)


class StackExchangePairedToMessages:
    """Rows of a question and two answers, a better and a worse one.

    Args:
        train_on_input: whether the question is trained on.
        column_map: the rows' names for ``prompt``, ``chosen`` and ``rejected``.
            Default: ``question``, ``response_j`` and ``response_k``.

    Raises:
        ValueError: if ``column_map`` lacks one of the three.
    """

    def __init__(self, train_on_input: bool = False, column_map: dict[str, str] | None = None) -> None:
        self._strategy = resolve_strategy(train_on_input, None)
        self._columns = column_map or {"prompt": "question", "chosen": "response_j", "rejected": "response_k"}
        missing = [key for key in ("prompt", "chosen", "rejected") if key not in self._columns]
        if missing:
            raise ValueError(f"Expected a key of '{missing[0]}' in column_map but found {list(self._columns)}.")

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row's ``chosen`` and ``rejected`` messages."""
        result = {}
        for key in ("chosen", "rejected"):
            messages = [
                Message(role="user", content=row_column(sample, self._columns["prompt"])),
                Message(role="assistant", content=row_column(sample, self._columns[key])),
            ]
            mask_messages(messages, self._strategy)
            result[key] = messages
        return result


def stack_exchange_paired_dataset(
    tokenizer: ModelTokenizer,
    *,
    source: str = "lvwerra/stack-exchange-paired",
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> PreferenceDataset:
    """Stack Exchange questions with a better and a worse answer; see :func:`preference_dataset`.

    Args:
        column_map: see :class:`StackExchangePairedToMessages`.
        train_on_input: whether questions are trained on.
        load_dataset_kwargs: for ``datasets.load_dataset``, such as ``data_dir="data/rl"``.

    """
    return PreferenceDataset(
        source=source,
        message_transform=StackExchangePairedToMessages(train_on_input=train_on_input, column_map=column_map),
        tokenizer=tokenizer,
        filter_fn=filter_fn,
        split=split,
        **load_dataset_kwargs,
    )


def cnn_dailymail_articles_dataset(
    tokenizer: ModelTokenizer,
    source: str = "ccdv/cnn_dailymail",
    max_seq_len: int | None = None,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> TextCompletionDataset:
    """News articles of CNN and Daily Mail, version 3.0.0, as plain texts; see :func:`text_completion_dataset`."""
    return TextCompletionDataset(
        tokenizer,
        source,
        column="article",
        max_seq_len=max_seq_len,
        filter_fn=filter_fn,
        split=split,
        **{"name": "3.0.0", **load_dataset_kwargs},
    )


def wikitext_dataset(
    tokenizer: ModelTokenizer,
    source: str = "EleutherAI/wikitext_document_level",
    subset: str = "wikitext-103-v1",
    max_seq_len: int | None = None,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> TextCompletionDataset | PackedDataset:
    """Articles of Wikipedia as plain texts; see :func:`text_completion_dataset`.

    Args:
        subset: ``"wikitext-103-v1"`` or ``"wikitext-2-v1"``.
    """
    return text_completion_dataset(
        tokenizer,
        source,
        column="page",
        max_seq_len=max_seq_len,
        packed=packed,
        filter_fn=filter_fn,
        split=split,
        name=subset,
        **load_dataset_kwargs,
    )
