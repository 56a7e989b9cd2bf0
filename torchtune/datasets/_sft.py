"""Supervised fine-tuning: a row becomes messages, messages become tokens and labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from torchtune.data._common import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._validate import validate_messages
from torchtune.datasets._rows import Rows, load_rows, place_of

if TYPE_CHECKING:
    from torchtune.modules.transforms import Transform


class SFTTransform:
    """From a row to a sample: message transform, validation, model transform, labels.

    A label is the token that comes next, or ``CROSS_ENTROPY_IGNORE_IDX`` (-100) where that token is masked, and for the
    last position. ``loss_weights``, where the model transform gives them, are those of the labels.

    Args:
        message_transform: row to ``{"messages": [...], "tools": [...]}``; None: rows are that already.
        model_transform: that to ``{"tokens": [...], "mask": [...], ...}``, such as a model tokenizer; None: samples
            stay messages.
        builtin_tools: names that may be called without being among the tools, such as ``brave_search`` of Llama 3.1.

    Raises:
        ValueError: if neither transform is given; in a call, if the row cannot be read, its conversation is not valid, or
            the model transform does not give ``tokens`` and ``mask``.
    """

    def __init__(
        self,
        message_transform: Transform | None = None,
        model_transform: Transform | None = None,
        *,
        builtin_tools: Collection[str] = (),
    ) -> None:
        if message_transform is None and model_transform is None:
            raise ValueError("At least one of message_transform or model_transform must be provided.")
        self._message_transform = message_transform
        self._model_transform = model_transform
        self._builtin_tools = tuple(builtin_tools)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The sample of a row."""
        row = sample
        if self._message_transform is not None:
            row = self._message_transform(row)
            if "messages" in row:
                validate_messages(row["messages"], row.get("tools"), builtin_tools=self._builtin_tools)
        if self._model_transform is None:
            return dict(row)
        tokenized = dict(self._model_transform({**row}))
        if not ("tokens" in tokenized and "mask" in tokenized):
            raise ValueError(
                f"model_transform returned the following keys: {', '.join(tokenized)}. "
                "Must return 'tokens' and 'mask' as keys."
            )
        tokenized.pop("tools", None)
        tokenized["labels"] = shifted_labels(tokenized["tokens"], tokenized["mask"])
        if "loss_weights" in tokenized:
            tokenized["loss_weights"] = [*tokenized["loss_weights"][1:], 0.0]
        return tokenized


def shifted_labels(tokens: list[int], mask: list[bool]) -> list[int]:
    """For each position the next token, or the ignore index where that is masked or there is none."""
    ignored = CROSS_ENTROPY_IGNORE_IDX
    labels = [ignored if masked else token for token, masked in zip(tokens, mask, strict=True)]
    labels.append(ignored)
    return labels[1:]


class PreparedRows(Dataset):
    """Samples that a transform makes of rows, when they are asked for."""

    def __init__(self, rows: Rows, prepare: Callable[[Mapping[str, Any]], Any]) -> None:
        self._data = rows
        self._prepare_sample = prepare

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        """The sample of a row; a ValueError has file and row in front."""
        row = self._data[index]
        try:
            return self._prepare_sample(row)
        except ValueError as error:
            raise ValueError(f"{place_of(self._data, index)}: {error}") from error


class SFTDataset(PreparedRows):
    """A dataset for supervised fine-tuning, of rows from files or the hub, each made a sample by :class:`SFTTransform`.

    Args:
        source: what :func:`~torchtune.datasets._rows.load_rows` takes: a name on the hub, ``"json"``, ``"parquet"``,
            ... with ``data_files``, or a path to a JSON or JSONL file. Local JSON is read as it is, without Arrow.
        message_transform: see :class:`SFTTransform`.
        model_transform: see :class:`SFTTransform`.
        filter_fn: keeps the rows for which it is true.
        filter_kwargs: for ``datasets.Dataset.filter``.
        builtin_tools: see :class:`SFTTransform`.
        load_dataset_kwargs: for ``datasets.load_dataset``: ``split``, ``data_files``, ...
    """

    def __init__(
        self,
        *,
        source: str,
        message_transform: Transform,
        model_transform: Transform,
        filter_fn: Callable[..., Any] | None = None,
        filter_kwargs: dict[str, Any] | None = None,
        builtin_tools: Collection[str] = (),
        **load_dataset_kwargs: Any,
    ) -> None:
        rows = load_rows(source, filter_fn=filter_fn, filter_kwargs=filter_kwargs, **load_dataset_kwargs)
        super().__init__(rows, SFTTransform(message_transform, model_transform, builtin_tools=builtin_tools))
