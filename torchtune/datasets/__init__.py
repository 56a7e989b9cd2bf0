"""Rows on disk or hub to training samples.

Nothing of Hugging Face ``datasets`` is imported before rows are read through it.
"""

from torchtune.datasets._builders import chat_dataset, instruct_dataset, text_completion_dataset
from torchtune.datasets._concat import ConcatDataset
from torchtune.datasets._named import (
    alpaca_cleaned_dataset,
    alpaca_dataset,
    cnn_dailymail_articles_dataset,
    grammar_dataset,
    hh_rlhf_helpful_dataset,
    samsum_dataset,
    slimorca_dataset,
    stack_exchange_paired_dataset,
    wikitext_dataset,
)
from torchtune.datasets._packed import PackedDataset, PackedStream
from torchtune.datasets._preference import PreferenceDataset, preference_dataset
from torchtune.datasets._sft import SFTDataset, SFTTransform
from torchtune.datasets._streaming import InterleavedDataset, StreamingDataset, combine_datasets
from torchtune.datasets._text_completion import TextCompletionDataset
from torchtune.datasets._tool_eval import tool_eval_dataset
from torchtune.datasets._tool_sets import (
    apigen_mt_dataset,
    glaive_function_calling_dataset,
    hermes_function_calling_dataset,
    tool_calling_dataset,
    toolace_dataset,
    when2call_dataset,
    xlam_function_calling_dataset,
)

from . import multimodal

__all__ = [
    "ConcatDataset",
    "InterleavedDataset",
    "PackedDataset",
    "PackedStream",
    "PreferenceDataset",
    "SFTDataset",
    "SFTTransform",
    "StreamingDataset",
    "TextCompletionDataset",
    "alpaca_cleaned_dataset",
    "alpaca_dataset",
    "apigen_mt_dataset",
    "chat_dataset",
    "cnn_dailymail_articles_dataset",
    "combine_datasets",
    "glaive_function_calling_dataset",
    "grammar_dataset",
    "hermes_function_calling_dataset",
    "hh_rlhf_helpful_dataset",
    "instruct_dataset",
    "multimodal",
    "preference_dataset",
    "samsum_dataset",
    "slimorca_dataset",
    "stack_exchange_paired_dataset",
    "text_completion_dataset",
    "tool_calling_dataset",
    "tool_eval_dataset",
    "toolace_dataset",
    "when2call_dataset",
    "wikitext_dataset",
    "xlam_function_calling_dataset",
]
