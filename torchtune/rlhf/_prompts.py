"""Prompts of rows of conversations, for models that learn from rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from torchtune.data import OpenAIToMessages, ShareGPTToMessages
from torchtune.datasets._builders import build_dataset
from torchtune.datasets._rows import load_rows, place_of

if TYPE_CHECKING:
    from torchtune.data import Message
    from torchtune.modules.transforms.tokenizers import ModelTokenizer

_STYLES = {"openai": OpenAIToMessages, "sharegpt": ShareGPTToMessages}


class PromptDataset(Dataset):
    """Rows of conversations up to the last user message, and what followed. See :class:`~torchtune.datasets.SFTDataset`.

    Args:
        message_transform: row to ``{"messages": [...], "tools": [...]}``.
    """

    def __init__(
        self,
        *,
        source: str,
        message_transform: Callable[..., Mapping[str, Any]],
        filter_fn: Callable[..., Any] | None = None,
        **load_dataset_kwargs: Any,
    ) -> None:
        self._message_transform = message_transform
        self._data = load_rows(source, filter_fn=filter_fn, **load_dataset_kwargs)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``messages`` up to the last user message, ``tools`` where the row has any, and the ``row``.

        The row has, besides its columns, unless it has them: ``expected_calls``, the calls after that message, and
        ``answer``, the text of the last message where that is the assistant's.

        Raises:
            ValueError: if the row cannot be read or has no user message, with file and row in front.
        """
        try:
            return _prompt(self._message_transform, self._data[index])
        except ValueError as error:
            raise ValueError(f"{place_of(self._data, index)}: {error}") from error


def _prompt(message_transform: Callable[..., Mapping[str, Any]], row: Mapping[str, Any]) -> dict[str, Any]:
    """The sample of a row."""
    sample = message_transform(row)
    messages: list[Message] = sample["messages"]
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise ValueError(f"the conversation has no user message; its roles are {[m.role for m in messages]}")
    after = messages[users[-1] + 1 :]
    calls = [call.to_dict() for message in after for call in message.tool_calls or []]
    expected: dict[str, Any] = {"expected_calls": calls}
    if after and after[-1].role == "assistant":
        expected["answer"] = after[-1].text_content
    prompt = {"messages": messages[: users[-1] + 1], "row": {**expected, **row}}
    return {**prompt, "tools": sample["tools"]} if sample.get("tools") else prompt


def prompt_dataset(
    tokenizer: ModelTokenizer,
    *,
    source: str,
    conversation_style: str = "openai",
    column_map: dict[str, str] | None = None,
    new_system_prompt: str | None = None,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> Any:
    """A :class:`PromptDataset` of rows as for supervised tuning, or a stream. See :func:`~torchtune.datasets.chat_dataset`.

    Args:
        tokenizer: not used here; recipes hand it to every dataset.
        conversation_style: "openai" or "sharegpt".
        load_dataset_kwargs: for ``datasets.load_dataset``; ``streaming=True`` reads rows while training, see
            :class:`~torchtune.datasets.StreamingDataset`.

    Raises:
        ValueError: if the style is unknown.
    """
    if conversation_style not in _STYLES:
        raise ValueError(f"conversation_style is {conversation_style!r}; expected one of {', '.join(_STYLES)}")
    transform = _STYLES[conversation_style](column_map=column_map, new_system_prompt=new_system_prompt)
    make, prepare = partial(PromptDataset, message_transform=transform), partial(_prompt, transform)
    return build_dataset(make, prepare, source, {"filter_fn": filter_fn, "split": split, **load_dataset_kwargs})
