"""Datasets of one's own rows: chats, instructions, texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from torchtune.data._tools import find_tools
from torchtune.data._transforms import InputOutputToMessages, OpenAIToMessages, ShareGPTToMessages
from torchtune.data._utils import read_tools_option
from torchtune.datasets._packed import PackedDataset, PackedStream, Packing
from torchtune.datasets._sft import SFTDataset, SFTTransform
from torchtune.datasets._streaming import Stream, StreamingDataset
from torchtune.datasets._text_completion import TextCompletionDataset, TextToSample

if TYPE_CHECKING:
    from torchtune.modules.transforms import Transform
    from torchtune.modules.transforms.tokenizers import ModelTokenizer

_STYLES = {"sharegpt": (ShareGPTToMessages, "conversations"), "openai": (OpenAIToMessages, "messages")}
_STREAM_OPTIONS = ("repeat", "shuffle_buffer", "weight")
_PACK_OPTIONS = ("packing", "pack_cache_dir", "pack_workers")


def pack(
    dataset: Any,
    max_seq_len: int | None,
    split_across_pack: bool = False,
    *,
    packing: Packing | None = None,
    pack_cache_dir: str | None = None,
    pack_workers: int = 0,
) -> PackedDataset | PackedStream:
    """Pack a dataset to the tokenizer's ``max_seq_len``, which it must have; packs are filled up with id 0."""
    if max_seq_len is None:
        raise ValueError("PackedDataset requires a max_seq_len to be set on the tokenizer.")
    options: dict[str, Any] = {"max_seq_len": max_seq_len, "padding_idx": 0, "split_across_pack": split_across_pack}
    if not isinstance(dataset, Stream):
        return PackedDataset(
            dataset, **options, packing=packing or "in_order", cache_dir=pack_cache_dir, num_workers=pack_workers
        )
    if pack_cache_dir is not None or pack_workers:
        raise ValueError("pack_cache_dir and pack_workers pack ahead of time; leave them out, or set streaming: false")
    return PackedStream(dataset, **options, packing=packing or ("in_order" if split_across_pack else "best_fit"))


def build_dataset(
    make: Callable[..., Any],
    prepare: Callable[[Mapping[str, Any]], Any],
    source: str,
    options: Mapping[str, Any],
    *,
    packed: bool = False,
    max_seq_len: int | None = None,
    split_across_pack: bool = False,
) -> Any:
    """A dataset with a length (``make``), or a stream of samples that ``prepare`` makes of rows, packed if asked for.

    ``options`` are those for ``datasets.load_dataset``, and these: ``streaming`` reads rows while training, see
    :class:`~torchtune.datasets.StreamingDataset` for its ``shuffle_buffer``, ``weight`` and ``repeat`` (here True: it never
    ends); ``packing``, and ``pack_cache_dir`` and ``pack_workers``, which are ``cache_dir`` and ``num_workers`` of
    :class:`~torchtune.datasets.PackedDataset`.
    """
    kwargs = dict(options)
    streaming = kwargs.pop("streaming", False)
    stream = {name: kwargs.pop(name) for name in _STREAM_OPTIONS if name in kwargs}
    packs = {name: kwargs.pop(name) for name in _PACK_OPTIONS if name in kwargs}
    if stream and not streaming:
        raise ValueError(f"{', '.join(stream)}: for streams only; set streaming: true, or leave it out")
    if packs and not packed:
        raise ValueError(f"{', '.join(packs)}: for packed data only; set packed: true, or leave it out")
    if streaming:
        dataset: Any = StreamingDataset(source, prepare, **{"repeat": True, **stream, **kwargs})
    else:
        dataset = make(source=source, **kwargs)
    return pack(dataset, max_seq_len, split_across_pack, **packs) if packed else dataset


def sft_dataset(
    tokenizer: ModelTokenizer,
    source: str,
    message_transform: Transform,
    packed: bool,
    *,
    builtin_tools: Collection[str] = (),
    **kwargs: Any,
) -> Any:
    """An :class:`SFTDataset`, or a stream of its samples, packed if asked for; options as for :func:`build_dataset`."""
    transforms: dict[str, Any] = {
        "message_transform": message_transform,
        "model_transform": cast("Transform", tokenizer),
        "builtin_tools": builtin_tools,
    }
    make = partial(SFTDataset, **transforms)
    return build_dataset(
        make,
        SFTTransform(**transforms),
        source,
        kwargs,
        packed=packed,
        max_seq_len=getattr(tokenizer, "max_seq_len", None),
    )


def named(name: str, builder: Callable[..., Any], doc: str, **defaults: Any) -> Any:
    """A builder of this name that has other defaults."""
    made: Any = partial(builder, **defaults)
    made.__name__, made.__doc__ = name, doc
    return made


def instruct_dataset(
    tokenizer: ModelTokenizer,
    *,
    source: str,
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> SFTDataset | PackedDataset:
    """Rows of an ``input`` and an ``output``; see :func:`chat_dataset` for the rest.

    Args:
        column_map: the rows' names for ``input`` and ``output``.
        train_on_input: whether inputs are trained on.
        new_system_prompt: a system message to put first.

    Raises:
        ValueError: if ``packed`` and the tokenizer has no ``max_seq_len``.
    """
    transform = InputOutputToMessages(
        train_on_input=train_on_input, column_map=column_map, new_system_prompt=new_system_prompt
    )
    return sft_dataset(tokenizer, source, transform, packed, filter_fn=filter_fn, split=split, **load_dataset_kwargs)


def chat_dataset(
    tokenizer: ModelTokenizer,
    *,
    source: str,
    conversation_column: str,
    conversation_style: str,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    tools: Sequence[Mapping[str, Any]] | str | os.PathLike[str] | None = None,
    tools_column: str = "tools",
    masking_strategy: str | None = None,
    nulls: str = "auto",
    parse_text_calls: bool = False,
    builtin_tools: Collection[str] = (),
    image_dir: str | None = None,
    image_urls: bool = False,
    **load_dataset_kwargs: Any,
) -> SFTDataset | PackedDataset:
    """Conversations, tool calls and tools included.

    A row holds a conversation in OpenAI or ShareGPT form and may hold its tools, as a list or a JSON string. Each row is
    validated when it is read; an error names the file and the row. Local JSON and JSONL is read without Arrow, which
    would give all objects of a column the same keys.

    Args:
        tokenizer: a model tokenizer.
        source: see :class:`SFTDataset`.
        conversation_column: the rows' name for the conversation.
        conversation_style: ``"openai"`` (``role``, ``content``, ``tool_calls``) or ``"sharegpt"`` (``from``, ``value``).
        train_on_input: whether all messages are trained on, not only the assistant's.
        new_system_prompt: a system message in place of the rows' own.
        packed: whether samples are packed to the tokenizer's ``max_seq_len``.
        filter_fn: keeps the rows for which it is true.
        split: the split, or a slice of it such as ``"train[:5%]"``.
        tools: the tools of rows that have no tools column (or null in it): function schemas, or a JSON file of them.
        tools_column: the rows' name for their tools.
        masking_strategy: in place of ``train_on_input``: ``train_on_all``, ``train_on_assistant``, ``train_on_last``.
        nulls: what becomes of nulls in calls and tools, which may be Arrow's padding: ``auto``, ``keep`` or ``drop``;
            see :class:`~torchtune.data.OpenAIToMessages`.
        parse_text_calls: read Hermes-style ``<tool_call>`` in the assistant's text as calls.
        builtin_tools: names that may be called without being among the tools, such as ``brave_search`` of Llama 3.1.
        image_dir: folder that the rows' image paths start from, and that they can't leave.
        image_urls: whether images are fetched from URLs; else a row with one is refused.
        load_dataset_kwargs: for ``datasets.load_dataset``: ``data_files``, ...; ``streaming=True`` reads rows while
            training, and more: see :func:`build_dataset`.

    Returns:
        A dataset of the source's rows, read when they are asked for; packs of them where ``packed`` is set, a stream of
            them with ``streaming=True``.

    Raises:
        ValueError: if the style is unknown, ``tools`` are no tools, or ``packed`` and the tokenizer has no
            ``max_seq_len``.
    """
    transform = chat_transform(
        conversation_style,
        conversation_column,
        tools=tools,
        tools_column=tools_column,
        train_on_input=train_on_input if masking_strategy is None else None,
        masking_strategy=masking_strategy or "train_on_assistant",
        new_system_prompt=new_system_prompt,
        nulls=nulls,
        parse_text_calls=parse_text_calls,
        image_dir=image_dir,
        image_urls=image_urls,
    )
    return sft_dataset(
        tokenizer,
        source,
        transform,
        packed,
        filter_fn=filter_fn,
        split=split,
        builtin_tools=builtin_tools,
        **load_dataset_kwargs,
    )


def chat_transform(
    conversation_style: str,
    conversation_column: str | None = None,
    *,
    tools: Sequence[Mapping[str, Any]] | str | os.PathLike[str] | None = None,
    tools_column: str = "tools",
    **options: Any,
) -> Transform:
    """The message transform of a style of conversation; ``tools`` are those of rows that have none of their own."""
    if conversation_style not in _STYLES:
        raise ValueError(
            f"Unsupported conversation style: {conversation_style!r}; expected one of {', '.join(map(repr, _STYLES))}"
        )
    kind, key = _STYLES[conversation_style]
    columns = {key: conversation_column or key, "tools": tools_column}
    transform = kind(column_map=columns, **options)
    return transform if tools is None else _WithTools(transform, read_tools_option(tools), tools_column)


class _WithTools:
    """Gives rows that have no tools of their own the same ones."""

    def __init__(self, transform: Transform, tools: list[dict[str, Any]], column: str) -> None:
        self._transform, self._tools, self._column = transform, tools, column

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        if find_tools(sample, self._column)[1] is None:
            sample = {**sample, self._column: self._tools}
        return self._transform(sample)


def text_completion_dataset(
    tokenizer: ModelTokenizer,
    source: str,
    column: str = "text",
    add_eos: bool = True,
    packed: bool = False,
    split_across_pack: bool = True,
    split: str = "train",
    filter_fn: Callable[..., Any] | None = None,
    *,
    max_seq_len: int | None = None,
    **load_dataset_kwargs: Any,
) -> TextCompletionDataset | PackedDataset:
    """Plain texts; see :class:`TextCompletionDataset` for a text's sample, and see :func:`chat_dataset` for the rest.

    Args:
        packed: whether samples are packed to ``max_seq_len``.
        split_across_pack: whether a packed text may go on in the next pack.

    Raises:
        ValueError: if ``packed`` and there is no ``max_seq_len``.
    """
    options: dict[str, Any] = {"column": column, "add_eos": add_eos, "max_seq_len": max_seq_len}
    return build_dataset(
        partial(TextCompletionDataset, tokenizer, **options),
        TextToSample(tokenizer, **options),
        source,
        {"filter_fn": filter_fn, "split": split, **load_dataset_kwargs},
        packed=packed,
        max_seq_len=tokenizer.max_seq_len if max_seq_len is None else max_seq_len,
        split_across_pack=split_across_pack,
    )
