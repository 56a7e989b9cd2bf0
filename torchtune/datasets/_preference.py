"""Preference data: for each row a chosen and a rejected conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torchtune.data._common import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._message import Message
from torchtune.data._transforms import ChosenRejectedToMessages
from torchtune.data._validate import validate_messages
from torchtune.datasets._builders import build_dataset
from torchtune.datasets._rows import load_rows
from torchtune.datasets._sft import PreparedRows

if TYPE_CHECKING:
    from torchtune.modules.transforms import Transform
    from torchtune.modules.transforms.tokenizers import ModelTokenizer


class PreferenceTransform:
    """From a preference row to its sample; arguments as of :class:`PreferenceDataset`."""

    def __init__(self, message_transform: Transform, tokenizer: ModelTokenizer) -> None:
        self._message_transform = message_transform
        self._tokenizer = tokenizer

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, list[int]]:
        """The sample of a row."""
        row = self._message_transform(sample)
        tools = row.get("tools")
        result = {}
        for key in ("chosen", "rejected"):
            messages: list[Message] = row[key]
            # Plain preference data was never checked, and some of it (two user turns in a row) would not pass. A rejected
            # answer may well be rejected for calling a tool that does not exist.
            if tools or any(message.tool_calls for message in messages):
                validate_messages(messages, tools if key == "chosen" else None)
            ids, mask = self._tokenizer.tokenize_messages(messages, **({"tools": tools} if tools else {}))
            result[f"{key}_input_ids"] = ids
            result[f"{key}_labels"] = [
                CROSS_ENTROPY_IGNORE_IDX if masked else token for token, masked in zip(ids, mask, strict=True)
            ]
        return result


class PreferenceDataset(PreparedRows):
    """A dataset of preferences, of rows from files or the hub.

    A sample has ``chosen_input_ids``, ``chosen_labels``, ``rejected_input_ids`` and ``rejected_labels``. Labels are the ids
    themselves, not shifted, -100 where they are masked. See :class:`~torchtune.datasets.SFTDataset` for the rows.

    Args:
        message_transform: row to ``{"chosen": [Message], "rejected": [Message], "tools": [...]}``.
        tokenizer: a model tokenizer.
        packed: not supported.

    Raises:
        ValueError: if ``packed``.
    """

    def __init__(
        self,
        *,
        source: str,
        message_transform: Transform,
        tokenizer: ModelTokenizer,
        filter_fn: Callable[..., Any] | None = None,
        packed: bool = False,
        **load_dataset_kwargs: Any,
    ) -> None:
        if packed:
            raise ValueError("Packed is currently not supported for preference datasets.")
        rows = load_rows(source, filter_fn=filter_fn, **load_dataset_kwargs)
        super().__init__(rows, PreferenceTransform(message_transform, tokenizer))


def preference_dataset(
    tokenizer: ModelTokenizer,
    *,
    source: str,
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> PreferenceDataset:
    """Preference rows: ``chosen`` and ``rejected`` conversations in OpenAI form, with ``tools`` where there are any.

    See :func:`~torchtune.datasets.chat_dataset` for the rest.

    Args:
        column_map: the rows' names for ``chosen``, ``rejected``, ``prompt`` and ``tools``.
        train_on_input: whether prompts are trained on.

    Returns:
        A dataset of pairs, tokenized: ``chosen_input_ids``, ``chosen_labels`` and the same for ``rejected``.
    """
    transforms: dict[str, Any] = {
        "message_transform": ChosenRejectedToMessages(
            train_on_input=train_on_input, column_map=column_map, new_system_prompt=new_system_prompt
        ),
        "tokenizer": tokenizer,
    }
    return build_dataset(
        partial(PreferenceDataset, **transforms),
        PreferenceTransform(**transforms),
        source,
        {"filter_fn": filter_fn, "split": split, **load_dataset_kwargs},
    )
