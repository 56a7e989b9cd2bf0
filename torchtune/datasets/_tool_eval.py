"""Cases to score tool calls on, of rows from files or the hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from torchtune.data._validate import validate_messages
from torchtune.datasets._builders import chat_transform
from torchtune.datasets._rows import load_rows, place_of
from torchtune.training.tool_eval.cases import ToolCase, Turns, case_from_bfcl, cases_from_messages


def tool_eval_dataset(
    source: str,
    *,
    style: Literal["openai", "sharegpt", "bfcl"],
    conversation_column: str | None = None,
    tools: Sequence[Mapping[str, Any]] | str | os.PathLike[str] | None = None,
    tools_column: str = "tools",
    turns: Turns = "all",
    max_cases: int | None = None,
    dots: Literal["keep", "underscore"] = "keep",
    new_system_prompt: str | None = None,
    nulls: str = "auto",
    parse_text_calls: bool = False,
    builtin_tools: Collection[str] = (),
    filter_fn: Callable[..., Any] | None = None,
    split: str = "train",
    **load_dataset_kwargs: Any,
) -> list[ToolCase]:
    """Cases to score tool calls on: prompts with the calls that are right after them.

    See :func:`~torchtune.datasets.chat_dataset` for what stands there.

    Args:
        style: ``"openai"`` or ``"sharegpt"`` conversations, whose assistant turns become cases, or ``"bfcl"``, rows of
            the Berkeley Function Calling Leaderboard (``question``, ``function``, ``ground_truth``).
        conversation_column: the rows' name for the conversation. Default: ``messages`` or ``conversations``.
        turns: which assistant turns become cases: ``"all"``, ``"first"`` or ``"last"``.
        max_cases: at most as many cases, the first ones.
        dots: what becomes of dots in function names of ``"bfcl"`` rows: ``"keep"`` or ``"underscore"``.

    Returns:
        The cases, in the order of the rows.

    Raises:
        ValueError: if the style is unknown, or a row cannot be read, with file and row in front.
    """
    rows = load_rows(source, filter_fn=filter_fn, split=split, **load_dataset_kwargs)
    options = {"new_system_prompt": new_system_prompt, "nulls": nulls, "parse_text_calls": parse_text_calls}
    transform = None
    if style != "bfcl":
        transform = chat_transform(style, conversation_column, tools=tools, tools_column=tools_column, **options)
    cases: list[ToolCase] = []
    for index in range(len(rows)):
        if max_cases is not None and len(cases) >= max_cases:
            break
        place = place_of(rows, index)
        row = rows[index]
        try:
            if transform is None:
                cases.append(case_from_bfcl(row, dots=dots))
                continue
            sample = transform(row)
            validate_messages(sample["messages"], sample.get("tools"), builtin_tools=builtin_tools)
            cases += cases_from_messages(sample["messages"], sample.get("tools"), turns=turns, id=place)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return cases[:max_cases]
