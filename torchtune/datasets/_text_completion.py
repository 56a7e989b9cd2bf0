"""Plain text, for continued pre-training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torchtune.data._common import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._utils import truncate
from torchtune.datasets._rows import load_rows
from torchtune.datasets._sft import PreparedRows

if TYPE_CHECKING:
    from torchtune.modules.transforms.tokenizers import ModelTokenizer


class TextToSample:
    """From a row with a text to its tokens and labels; arguments as of :class:`TextCompletionDataset`."""

    def __init__(
        self, tokenizer: ModelTokenizer, column: str = "text", add_eos: bool = True, *, max_seq_len: int | None = None
    ) -> None:
        self._tokenizer: Any = tokenizer
        self._column = column
        self._add_eos = add_eos
        self._max_seq_len = tokenizer.max_seq_len if max_seq_len is None else max_seq_len

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, list[int]]:
        """``tokens`` and ``labels`` of a row."""
        text = sample.get(self._column)
        if not isinstance(text, str):
            found = f"is {type(text).__name__}" if self._column in sample else f"is missing; there are {list(sample)}"
            raise ValueError(f"column {self._column!r} must be a text but {found}")
        tokens = self._tokenizer.encode(text, add_bos=True, add_eos=self._add_eos)
        if self._max_seq_len is not None:
            tokens = truncate(tokens, self._max_seq_len - 1)
        return {"tokens": tokens, "labels": [*tokens[1:], CROSS_ENTROPY_IGNORE_IDX]}


class TextCompletionDataset(PreparedRows):
    """A dataset of texts, each one a sample of ``tokens`` and ``labels``; rows come from files or the hub.

    A label is the token that comes next, -100 for the last. See :class:`~torchtune.datasets.SFTDataset` for the rows; the
    source ``"text"`` gives one for each line of a text file.

    Args:
        tokenizer: has ``encode(text, add_bos=, add_eos=)`` and ``max_seq_len``.
        column: where a row has its text.
        add_eos: whether a text ends in the tokenizer's end-of-sequence id. A text that is cut loses it.
        max_seq_len: texts are cut to one token less. Default: the tokenizer's.
    """

    def __init__(
        self,
        tokenizer: ModelTokenizer,
        source: str,
        column: str = "text",
        add_eos: bool = True,
        filter_fn: Callable[..., Any] | None = None,
        *,
        max_seq_len: int | None = None,
        **load_dataset_kwargs: Any,
    ) -> None:
        self.add_eos = add_eos
        rows = load_rows(source, filter_fn=filter_fn, **load_dataset_kwargs)
        super().__init__(rows, TextToSample(tokenizer, column, add_eos, max_seq_len=max_seq_len))
