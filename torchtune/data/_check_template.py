"""Before a run: is what is trained what will be served? Rows are written by our format and by the checkpoint's template."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune.data._message import Message
    from torchtune.data.formats import ChatFormat, Segment

log = logging.getLogger(__name__)

MODES = ("error", "warn", "off")
#: How formats write dates.
_DATES = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d")
_EXCERPT = 60
#: Stands for a leaf that was changed, to see whether a text depends on it.
_MARK = "zq7"

Conversation = tuple[str, list["Message"], Any]


@dataclass
class TemplateReport:
    """What the comparison found: rows that both wrote, where and how they differ, and what the template alone drops."""

    compared: int
    differences: list[str]
    lossy: list[str]


def check_template(
    tokenizer: Any, dataset: Any, folder: str | Path, mode: str | bool = "error", *, rows: int = 8
) -> TemplateReport | None:
    """Holds a tokenizer's chat format against the chat template of a checkpoint, on the first rows of a dataset.

    Compared is what the official format writes: all rows where ``chat_format`` is set, else those with tools, calls or
    reasoning. Plain rows under ``chat_format=None`` are written as torchtune always has, and not compared. Where the
    template drops something that our format keeps, that is logged and is no difference.

    Args:
        tokenizer: a model tokenizer; one that renders the template itself has nothing to compare.
        dataset: samples of messages, packed, joined or streamed; others are not looked into.
        folder: the checkpoint, which may hold a chat template.
        mode: "error" raises at a difference, "warn" logs it, "off" (or False, which YAML makes of ``off``) does nothing.
        rows: how many rows are compared at most.

    Returns:
        What was found; None where there was nothing to compare.

    Raises:
        ValueError: if the two differ, with the first differing place; or the mode is not known.
    """
    mode = {False: "off", True: "error"}.get(mode, mode) if isinstance(mode, bool) else mode
    if mode not in MODES:
        raise ValueError(f"check_template must be one of {', '.join(MODES)}; found {mode!r}.")
    if mode == "off":
        return None
    from torchtune.modules.transforms.tokenizers._chat import ChatTokenizer

    if not isinstance(tokenizer, ChatTokenizer):  # such as a transform of images and text
        tokenizer = getattr(tokenizer, "tokenizer", None)
    if not isinstance(tokenizer, ChatTokenizer) or hasattr(tokenizer, "templates"):
        return None
    templates = _templates(Path(folder), tokenizer.format)
    if not templates:
        log.info("check_template: %s has no chat template, so there is nothing to compare.", folder)
        return None
    report = TemplateReport(0, [], [])
    for label, messages, tools in islice(_official(tokenizer, conversations(dataset)), rows):
        _compare(report, label, messages, tools, tokenizer.format, templates)
    _tell(report, tokenizer, folder, mode)
    return report


def _tell(report: TemplateReport, tokenizer: Any, folder: Any, mode: Any) -> None:
    """Logs what was found, or raises."""
    from torchtune.data.formats import detect_format

    for text in report.lossy[:1]:
        log.info("check_template: %s. It is trained nevertheless.", text)
    if not report.differences:
        log.info(
            "check_template: all %d rows compared are written as the checkpoint's chat template has them.",
            report.compared,
        )
        return
    name, found = tokenizer.format.name, None
    with suppress(ValueError):
        found = detect_format(folder)
    way_out = (
        f"This checkpoint's format seems to be {found!r}: set tokenizer.chat_format to it"
        if found and found != name
        else "Set tokenizer.chat_format, or tokenizer.format_options"
    )
    text = (
        f"{report.differences[0]}\n{len(report.differences)} of {report.compared} rows differ, so what is trained would not "
        f"be what is served from {folder}. {way_out}; or go on as it is with check_template: warn."
    )
    if mode == "error":
        raise ValueError(text)
    log.warning("check_template: %s", text)


def _official(tokenizer: Any, found: Iterator[Conversation]) -> Iterator[Conversation]:
    """The conversations that the tokenizer writes officially, with a prompt template's words, and without media."""
    from torchtune.modules.transforms.tokenizers._chat import is_structured

    for label, messages, tools in found:
        if tokenizer.chat_format is None and not is_structured(messages, tools):
            continue
        if any(message.contains_media for message in messages):
            continue
        yield label, list(tokenizer._official_messages(messages)), tools


def conversations(dataset: Any, most: int = 64) -> Iterator[Conversation]:
    """The first conversations of a dataset, each with where it stands; of joined datasets by turns. Bad rows are left out."""
    parts = getattr(dataset, "_datasets", None) or getattr(dataset, "datasets", None)
    if parts:
        each = [conversations(part, most) for part in parts]
        while each:
            for one in list(each):
                found = next(one, None)
                if found is None:
                    each.remove(one)
                else:
                    yield found
        return
    for name in ("ds", "stream", "dataset", "_dataset"):  # what packs and fills up
        if getattr(dataset, name, None) is not None:
            yield from conversations(getattr(dataset, name), most)
            return
    prepare = getattr(dataset, "_prepare_sample", None) or getattr(dataset, "_prepare", None)
    transform = getattr(prepare, "_message_transform", None)
    if transform is None:
        log.info("check_template: cannot look into a %s, so it is not compared.", type(dataset).__name__)
        return
    for number, row in enumerate(islice(_rows(dataset), most), start=1):
        try:
            sample = transform(row)
        except (ValueError, TypeError, KeyError):
            continue  # training says what is wrong with it
        if "messages" in sample:
            yield f"row {number}", sample["messages"], sample.get("tools")


def _rows(dataset: Any) -> Iterator[Any]:
    if hasattr(dataset, "_data"):
        yield from (dataset._data[i] for i in range(len(dataset._data)))
    elif hasattr(dataset, "_openers"):
        from torchtune.datasets._stream_rows import RowStream, parse_row

        rows: Any = RowStream(dataset._openers, window=1, seed=None, keep=dataset._filter)
        while (row := next(rows, None)) is not None:
            yield parse_row(*row)


Write = Callable[[Sequence["Message"]], str]


def _compare(
    report: TemplateReport, label: str, messages: list[Message], tools: Any, fmt: ChatFormat, templates: dict[str, Any]
) -> None:
    """Writes a conversation both ways."""
    from torchtune.data.formats._write import wrap_tools

    def ours(chat: Sequence[Message]) -> str:
        return "".join(segment.text for segment in fmt.render(chat, tools)).replace("▁", " ")

    name = "tool_use" if tools and "tool_use" in templates else "default"
    template = templates.get(name) or next(iter(templates.values()))
    render = _renderer(template, fmt, wrap_tools(tools, fmt.name))
    try:
        segments = fmt.render(messages, tools)
    except ValueError:
        return  # the family cannot express it; training says so
    report.compared += 1
    text = ours(messages)
    try:
        theirs = render(messages)
    except (ValueError, TypeError) as error:
        report.differences.append(f"{label}: format {fmt.name} writes it, but {error}")
        return
    if text == theirs:
        return
    at = next((i for i, (a, b) in enumerate(zip(text, theirs, strict=False)) if a != b), min(len(text), len(theirs)))
    index, where = _place(segments, messages, at)
    lost = None if index is None else _lost(messages, index, ours, render, text, theirs)
    if lost is not None:
        report.lossy.append(f"{label}: the checkpoint's chat template drops {lost}; format {fmt.name} keeps it")
        return
    start = max(at - 20, 0)
    report.differences.append(
        f"{label}: format {fmt.name} and the checkpoint's chat template differ from character {at} on, {where}:\n"
        f"  ours:     ...{text[start : at + _EXCERPT]!r}\n  template: ...{theirs[start : at + _EXCERPT]!r}"
    )


def _place(segments: Sequence[Segment], messages: Sequence[Message], at: int) -> tuple[int | None, str]:
    """The message that a character belongs to, and in words."""
    end = 0
    for segment in segments:
        end += len(segment.text)
        if at < end:
            index = segment.message_index
            return index, "outside all messages" if index is None else f"in message {index} ({messages[index].role})"
    return None, "after the last message"


def _renderer(template: Any, fmt: ChatFormat, tools: Any) -> Write:
    """Renders messages by the template, with the format's options as its variables."""
    from torchtune.modules.transforms.tokenizers._hf_template import Template, Texts
    from torchtune.modules.transforms.tokenizers._hf_trace import take_out_generation

    source, variables = template
    options = {name: value for name, value in vars(fmt._resolve({})).items() if value is not None}
    bound = Template(source, {"strftime_now": _date(options).strftime, **variables, **options})
    texts = Texts(lambda text, *_: text)

    def render(messages: Sequence[Message]) -> str:
        for as_text in (False, True):  # some templates want arguments as JSON text
            rows = texts.messages(messages, as_text)
            for row, message in zip(rows, messages, strict=True):
                if len(message.content) == 1 and message.content[0]["type"] == "json":
                    row["content"] = message.content[0]["content"]
            try:
                text = take_out_generation(bound(rows, tools, False))[0]
            except TypeError:
                if as_text:
                    raise
                continue
            if as_text or not any(
                _printed_by_python(call.arguments, text) for m in messages for call in m.tool_calls or ()
            ):
                break
        return text.replace("▁", " ")

    return render


def _printed_by_python(arguments: Any, text: str) -> bool:
    return bool(arguments) and str(arguments) in text and str(arguments) != json.dumps(arguments, ensure_ascii=False)


def _date(options: Mapping[str, Any]) -> datetime:
    """The day that the format writes, so that a template that asks for today's writes the same."""
    for pattern in _DATES:
        try:
            return datetime.strptime(str(options.get("date_string")), pattern)
        except ValueError:
            continue
    return datetime.now()


def _lost(messages: Sequence[Message], index: int, ours: Write, render: Write, text: str, theirs: str) -> str | None:
    """What of an answer or a result our text depends on and the template's does not; None where that is nothing."""
    message = messages[index]
    for kind, changed in _changed(message) if message.role not in ("system", "user") else ():
        other = [*messages[:index], changed, *messages[index + 1 :]]
        try:
            if render(other) == theirs and ours(other) != text:
                return f"{kind} of message {index} ({message.role})"
        except (ValueError, TypeError):
            continue
    return None


def _changed(message: Message) -> Iterator[tuple[str, Message]]:
    """The message, each time with one text or value changed."""
    for number, part in enumerate(message.content):
        for value in _changed_values(part["content"]):
            other = copy.copy(message)
            other.content = [*message.content[:number], {**part, "content": value}, *message.content[number + 1 :]]
            yield "the result" if message.role in ("tool", "ipython") else "the text", other
    for number, call in enumerate(message.tool_calls or ()):
        for field, values in (("name", [call.name + _MARK]), ("arguments", _changed_values(call.arguments))):
            for value in values:
                other = copy.copy(message)
                other.tool_calls = list(message.tool_calls or ())
                other.tool_calls[number] = copy.copy(call)
                setattr(other.tool_calls[number], field, value)
                yield f"the {field} of a call", other
    if message.reasoning_content:
        other = copy.copy(message)
        other.reasoning_content = message.reasoning_content + _MARK
        yield "the reasoning", other


def _changed_values(value: Any) -> Iterator[Any]:
    """A JSON value, each time with one leaf of it changed."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from ({**value, key: changed} for changed in _changed_values(inner))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from ([*value[:number], changed, *value[number + 1 :]] for changed in _changed_values(inner))
    elif isinstance(value, bool) or value is None:
        yield _MARK
    elif isinstance(value, (int, float)):
        yield value + 7
    elif isinstance(value, str) and value.strip():
        yield value + _MARK


def _templates(folder: Path, fmt: ChatFormat) -> dict[str, tuple[str, dict[str, Any]]]:
    """The chat templates of a checkpoint folder by name, as they will be served, each with the tokens that it may name."""
    from torchtune.data.formats._registry import _json, find_templates

    config = _json(folder / "tokenizer_config.json")
    tokens = {**_json(folder / "special_tokens_map.json"), **config}
    texts = {name: value.get("content") if isinstance(value, Mapping) else value for name, value in tokens.items()}
    variables = {name: text for name, text in texts.items() if name.endswith("_token") and isinstance(text, str)}
    return {name: (fmt.served_template(source), variables) for name, source in find_templates(folder).items()}
