"""Message transforms: a row of a data set to ``{"messages": [Message], "tools": [dict]}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torchtune.data._arrow import Nulls, holds_null, looks_padded, unpad_calls, unpad_tools
from torchtune.data._flags import set_flags
from torchtune.data._masking import MaskingStrategy, mask_messages, resolve_strategy
from torchtune.data._message import Message, ToolCall
from torchtune.data._tool_calls import read_json
from torchtune.data._tools import find_tools, read_tools
from torchtune.data._turns import read_turns
from torchtune.data._utils import format_content_with_images, row_image

_ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."
)
_ALPACA_WITH_INPUT = ", paired with an input that provides further context"


@dataclass
class _Options:
    """What all transforms of chat rows have in common."""

    strategy: MaskingStrategy
    new_system_prompt: str | None
    nulls: Nulls = "auto"
    parse_text_calls: bool = False
    image_dir: str | Path | None = None
    image_urls: bool = False

    def __post_init__(self) -> None:
        if self.nulls not in ("auto", "keep", "drop"):
            raise ValueError(f"nulls must be 'auto', 'keep' or 'drop', but found {self.nulls!r}")


def _columns(
    column_map: Mapping[str, str] | None, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, str]:
    """The row's name for each column; a map must name what is required, unless it names only where the tools are."""
    given = dict(column_map or {})
    if any(key not in ("tools", "prompt") for key in given):
        for key in required:
            if key not in given:
                raise ValueError(f"Expected a key of '{key}' in column_map but found {list(given)}.")
    return {key: given.get(key, key) for key in (*required, *optional)}


def row_column(sample: Mapping[str, Any], column: str) -> Any:
    """What a row has in a column, which it must have."""
    if column not in sample:
        raise ValueError(f"The row has no column {column!r}; found {list(sample)}. Name it in column_map.")
    return sample[column]


def _text_column(sample: Mapping[str, Any], column: str) -> str:
    value = row_column(sample, column)
    if not isinstance(value, str):
        raise ValueError(f"Column {column!r} must hold text, but found {type(value).__name__}: {str(value)[:80]!r}")
    return value


def _system(prompt: str | None) -> list[Message]:
    return [] if prompt is None else [Message(role="system", content=prompt, masked=True)]


def _read_tools(
    sample: Mapping[str, Any], column: str, padded: Callable[[], bool] | None, nulls: Nulls
) -> list[dict[str, Any]]:
    column, value = find_tools(sample, column)
    if value is not None and nulls != "keep" and holds_null(value):
        value = unpad_tools(value, padded=padded is not None and padded(), nulls=nulls)
    return read_tools(value, f"Column {column!r}")


def _to_messages(
    rows: Any, column: str, tools: Sequence[Mapping[str, Any]], padded: Callable[[], bool] | None, o: _Options
) -> list[Message]:
    """The messages of a chat column: read, flagged and masked; ``padded`` tells whether it is, None where it was JSON."""
    turns = read_turns(rows, column=column, parse_text_calls=o.parse_text_calls)
    arguments = [call["arguments"] for turn in turns if "tool_calls" in turn for call in turn["tool_calls"]]
    if padded is not None and o.nulls != "keep" and holds_null(arguments):
        rows = unpad_calls(rows, tools, padded=padded(), nulls=o.nulls)
        turns = read_turns(rows, column=column, parse_text_calls=o.parse_text_calls)
    messages = _system(o.new_system_prompt)
    for turn in turns:
        if o.new_system_prompt is not None and turn["role"] == "system":
            continue
        if not isinstance(turn["content"], str):
            for part in turn["content"]:
                if part["type"] == "image":
                    part["content"] = row_image(part["content"], o.image_dir, o.image_urls)
        if "tool_calls" in turn:
            turn["tool_calls"] = [ToolCall(**call) for call in turn["tool_calls"]]
        messages.append(Message(**turn))
    set_flags(messages)
    mask_messages(messages, o.strategy)
    return messages


def _read_row(sample: Mapping[str, Any], columns: Mapping[str, str], key: str, o: _Options) -> dict[str, Any]:
    """``messages`` of the row's chat column, and ``tools`` where it has any."""
    rows = row_column(sample, columns[key])
    padded = None if isinstance(rows, str) else partial(_look_padded, [rows])
    if isinstance(rows, str):
        rows = read_json(rows, f"Column {columns[key]!r}")
    tools = _read_tools(sample, columns["tools"], padded, o.nulls)
    result: dict[str, Any] = {"messages": _to_messages(rows, columns[key], tools, padded, o)}
    if tools:
        result["tools"] = tools
    return result


def _look_padded(conversations: Sequence[Any]) -> bool:
    return all(isinstance(rows, Sequence) and looks_padded(rows) for rows in conversations)


class OpenAIToMessages:
    """Rows in the OpenAI chat form, tool calls and tools included.

    Args:
        train_on_input: True is ``train_on_all``, False is ``train_on_assistant``, None leaves it to
            ``masking_strategy``.
        column_map: the row's names for ``messages`` and ``tools``.
        new_system_prompt: a system message to put in place of the row's own.
        masking_strategy: ``train_on_all``, ``train_on_assistant`` or ``train_on_last``.
        nulls: ``auto`` removes the nulls that Arrow padded objects with (the rule: :mod:`torchtune.data._arrow`),
            ``keep`` removes none, ``drop`` removes all.
        parse_text_calls: read Hermes-style ``<tool_call>`` in the assistant's text as calls, and ``<tool_response>`` in
            results.
        image_dir: folder that the paths of images start from, and that they can't leave; None takes them as they stand.
        image_urls: whether images are fetched from URLs; else a row with one is refused.

    Raises:
        ValueError: if ``column_map`` names no ``messages``, or an option has no such value.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        masking_strategy: str | None = "train_on_assistant",
        *,
        nulls: Nulls = "auto",
        parse_text_calls: bool = False,
        image_dir: str | Path | None = None,
        image_urls: bool = False,
    ) -> None:
        self._columns = _columns(column_map, ["messages"], ["tools"])
        strategy = resolve_strategy(train_on_input, masking_strategy)
        self._options = _Options(strategy, new_system_prompt, nulls, parse_text_calls, image_dir, image_urls)

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row's ``messages``, and ``tools`` where it has any."""
        return _read_row(sample, self._columns, "messages", self._options)


class ShareGPTToMessages:
    """Rows in ShareGPT form: ``conversations`` of ``from`` and ``value``, calls, results and tools included.

    A ``function_call`` or ``tool_call`` turn holds calls as JSON; ``observation``, ``tool``, ``tool_response`` and
    ``function_response`` turns are results. See :class:`OpenAIToMessages` for the other options.

    Args:
        column_map: the row's names for ``conversations``, ``tools`` and ``image``.
        image_tag: where in the first user message that has it the image goes.

    Raises:
        ValueError: if ``column_map`` names no ``conversations``, or no ``image`` where there is an ``image_dir``.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        image_dir: Path | None = None,
        image_tag: str | None = "<image>",
        masking_strategy: str | None = "train_on_assistant",
        *,
        nulls: Nulls = "auto",
        parse_text_calls: bool = False,
        image_urls: bool = False,
    ) -> None:
        self._columns = _columns(column_map, ["conversations"], ["tools", "image"])
        _check_image_column(image_dir, column_map)
        self._image_tag = image_tag
        strategy = resolve_strategy(train_on_input, masking_strategy)
        self._options = _Options(strategy, new_system_prompt, nulls, parse_text_calls, image_dir, image_urls)

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row's ``messages``, and ``tools`` where it has any."""
        result = _read_row(sample, self._columns, "conversations", self._options)
        image = sample.get(self._columns["image"])
        if image is None or self._image_tag is None:
            return result
        for message in result["messages"]:
            if message.role == "user" and self._image_tag in message.text_content:
                images = [row_image(image, self._options.image_dir, self._options.image_urls)]
                message.content = format_content_with_images(
                    message.text_content, image_tag=self._image_tag, images=images
                )
                break
        return result


class InputOutputToMessages:
    """Rows of one ``input`` and one ``output``, with an ``image`` where the row has one.

    See :class:`OpenAIToMessages` for the other options.

    Args:
        column_map: the row's names for ``input``, ``output`` and ``image``.
        new_system_prompt: a system message to put first.

    Raises:
        ValueError: if ``column_map`` names no ``input`` or no ``output``, or no ``image`` where there is an
            ``image_dir``.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        image_dir: Path | None = None,
        masking_strategy: str | None = "train_on_assistant",
        *,
        image_urls: bool = False,
    ) -> None:
        self._columns = _columns(column_map, ["input", "output"], ["image"])
        _check_image_column(image_dir, column_map)
        self._image_dir, self._image_urls = image_dir, image_urls
        self._system_prompt = new_system_prompt
        self._strategy = resolve_strategy(train_on_input, masking_strategy)

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row's ``messages``: the system's where there is one, the user's, the assistant's."""
        text: str | list[dict[str, Any]] = _text_column(sample, self._columns["input"])
        image = sample.get(self._columns["image"])
        if image is not None:
            text = [
                {"type": "image", "content": row_image(image, self._image_dir, self._image_urls)},
                {"type": "text", "content": text},
            ]
        messages = [
            *_system(self._system_prompt),
            Message(role="user", content=text),
            Message(role="assistant", content=_text_column(sample, self._columns["output"])),
        ]
        mask_messages(messages, self._strategy)
        return {"messages": messages}


class AlpacaToMessages:
    """Rows of ``instruction``, ``input`` (may be empty or missing) and ``output``, in the prompt of Stanford Alpaca.

    See :class:`OpenAIToMessages` for the other options.

    Args:
        column_map: the row's names for ``instruction``, ``input`` and ``output``.

    Raises:
        ValueError: if ``column_map`` names no ``instruction`` or no ``output``.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        masking_strategy: str | None = "train_on_all",
    ) -> None:
        self._columns = _columns(column_map, ["instruction", "output"], ["input"])
        self._strategy = resolve_strategy(train_on_input, masking_strategy)

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row's ``messages``: the prompt and the answer."""
        given = sample.get(self._columns["input"])
        sections = [
            _ALPACA_PREAMBLE.format(_ALPACA_WITH_INPUT if given else ""),
            f"### Instruction:\n{_text_column(sample, self._columns['instruction'])}",
            *([f"### Input:\n{given}"] if given else []),
            "### Response:\n",
        ]
        messages = [
            Message(role="user", content="\n\n".join(sections)),
            Message(role="assistant", content=_text_column(sample, self._columns["output"])),
        ]
        mask_messages(messages, self._strategy)
        return {"messages": messages}


class ChosenRejectedToMessages:
    """Preference rows: a ``chosen`` and a ``rejected`` conversation in OpenAI form, with tools where there are any.

    Where a row has a ``prompt`` conversation too, and the two do not begin with it, it is put before both.
    See :class:`OpenAIToMessages` for the other options.

    Args:
        column_map: the row's names for ``chosen``, ``rejected``, ``prompt`` and ``tools``.

    Raises:
        ValueError: if ``column_map`` names no ``chosen`` or no ``rejected``.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        masking_strategy: str | None = "train_on_assistant",
        *,
        nulls: Nulls = "auto",
    ) -> None:
        self._columns = _columns(column_map, ["chosen", "rejected"], ["prompt", "tools"])
        self._options = _Options(resolve_strategy(train_on_input, masking_strategy), new_system_prompt, nulls)

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row's ``chosen`` and ``rejected`` messages, and ``tools`` where it has any."""
        prompt = sample.get(self._columns["prompt"])
        prompt = list(prompt) if isinstance(prompt, (list, tuple)) else []
        rows = {}
        for key in ("chosen", "rejected"):
            rows[key] = row_column(sample, self._columns[key])
            if isinstance(rows[key], (list, tuple)) and list(rows[key][: len(prompt)]) != prompt:
                rows[key] = [*prompt, *rows[key]]
        padded = partial(_look_padded, list(rows.values()))
        tools = _read_tools(sample, self._columns["tools"], padded, self._options.nulls)
        result: dict[str, Any] = {
            key: _to_messages(value, self._columns[key], tools, padded, self._options) for key, value in rows.items()
        }
        return {**result, "tools": tools} if tools else result


def _check_image_column(image_dir: Path | None, column_map: Mapping[str, str] | None) -> None:
    if image_dir is not None and "image" not in (column_map or {}):
        raise ValueError(
            f"Please specify an 'image' key in column_map to use image_dir={str(image_dir)!r}; found {list(column_map or {})}"
        )
