"""Datasets of conversations with tools: one's own rows, and the public sets by name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from torchtune.data._tool_sets import TOOL_SETS, Row
from torchtune.datasets._builders import chat_transform, named, sft_dataset

if TYPE_CHECKING:
    from torchtune.modules.transforms.tokenizers import ModelTokenizer

_STYLES = ("openai", "sharegpt", *TOOL_SETS)


def _adapted(adapt: Callable[[Row], Row], transform: Callable[[Row], Row], sample: Row) -> Row:
    return transform(adapt(sample))


def tool_calling_dataset(
    tokenizer: ModelTokenizer,
    source: str | None = None,
    style: str = "openai",
    *,
    conversation_column: str | None = None,
    train_on_input: bool = False,
    masking_strategy: str | None = None,
    new_system_prompt: str | None = None,
    packed: bool = False,
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    tools: Any = None,
    tools_column: str = "tools",
    nulls: str = "auto",
    parse_text_calls: bool | None = None,
    builtin_tools: Collection[str] = (),
    **load_dataset_kwargs: Any,
) -> Any:
    """Conversations with tools, of one's own rows or of a public set; see :func:`chat_dataset` for what stands there.

    Args:
        source: see :class:`SFTDataset`. Default: the public set that ``style`` names.
        style: ``"openai"`` or ``"sharegpt"``, or the schema of a public set: ``"glaive"`` (glaive-function-calling-v2),
            ``"xlam"`` (xlam-function-calling-60k), ``"hermes"`` (hermes-function-calling-v1), ``"toolace"`` (ToolACE),
            ``"apigen_mt"`` (APIGen-MT-5k), ``"when2call"`` (When2Call).
        conversation_column: the rows' name for the conversation, for the first two styles; ``tools_column`` likewise.
        filter_fn: keeps the rows for which it is true; it gets rows as they are in the source.
        parse_text_calls: as in :func:`chat_dataset`. Default: as the style needs it.

    Raises:
        ValueError: if the style is unknown, or there is no source.
    """
    if style not in _STYLES:
        raise ValueError(f"Unsupported style: {style!r}; expected one of {', '.join(map(repr, _STYLES))}")
    known = TOOL_SETS.get(style)
    if known is not None and (conversation_column is not None or tools_column != "tools"):
        raise ValueError(f"style={style!r} knows its columns; leave out conversation_column and tools_column")
    if source is None and known is None:
        raise ValueError(f"style={style!r} has no source of its own; name a file or a dataset on the hub as source")
    options = dict(known.options) if known is not None else {}
    text_calls = options.pop("parse_text_calls", False)
    if source is not None:
        options = {}  # the name of a subset belongs to the set on the hub
    transform: Any = chat_transform(
        style if known is None else known.style,
        conversation_column,
        tools=tools,
        tools_column=tools_column,
        train_on_input=train_on_input if masking_strategy is None else None,
        masking_strategy=masking_strategy or "train_on_assistant",
        new_system_prompt=new_system_prompt,
        nulls=nulls,
        parse_text_calls=text_calls if parse_text_calls is None else parse_text_calls,
    )
    if known is not None:
        transform = partial(_adapted, known.adapt, transform)
        source = source or known.source
    assert source is not None
    return sft_dataset(
        tokenizer,
        source,
        transform,
        packed,
        builtin_tools=builtin_tools,
        **{**options, "filter_fn": filter_fn, "split": split, **load_dataset_kwargs},
    )


def _of_set(name: str, style: str) -> Any:
    doc = f"``{TOOL_SETS[style].source}``; see :func:`tool_calling_dataset`."
    return named(name, tool_calling_dataset, doc, style=style)


glaive_function_calling_dataset = _of_set("glaive_function_calling_dataset", "glaive")
xlam_function_calling_dataset = _of_set("xlam_function_calling_dataset", "xlam")
hermes_function_calling_dataset = _of_set("hermes_function_calling_dataset", "hermes")
toolace_dataset = _of_set("toolace_dataset", "toolace")
apigen_mt_dataset = _of_set("apigen_mt_dataset", "apigen_mt")
when2call_dataset = _of_set("when2call_dataset", "when2call")
