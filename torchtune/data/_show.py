"""Rows as a model reads them: in a terminal, and on a page."""

from __future__ import annotations

import html
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.data._selectors import TrainOn, read_selector
from torchtune.data.checks._model import find_model
from torchtune.data.checks._preference import SIDES, is_preference, read_sides
from torchtune.data.checks._report import RowError, RowResult
from torchtune.data.checks._row import Options, ReadRow, RowChecker
from torchtune.data.checks._source import RawRow, parse_row, read_source

if TYPE_CHECKING:
    from rich.text import Text

    from torchtune.data._message import Message

#: Tokens before one that a decoder may look at to write it, such as the bytes that a letter begins with.
_WINDOW = 8
_HALF = "\N{REPLACEMENT CHARACTER}"
_MAX_ROW_BYTES = 16 << 20
#: Lines of a long untrained message, such as one with tools, that a page shows before and behind what it folds.
_HEAD, _TAIL = 8, 6


@dataclass(frozen=True)
class Piece:
    """A stretch of a row as it is written."""

    text: str
    ids: tuple[int, ...] = ()
    message: int | None = None
    role: str = ""
    trained: bool = False
    control: bool = False


@dataclass
class RowView:
    """A row to be shown: its pieces, or (``raw``) the row itself where it cannot be written, with all its errors."""

    line: int
    row: int
    pieces: list[Piece] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    raw: str = ""
    tokens: int | None = None
    trained: int | None = None


def read_views(
    source: Any,
    rows: Sequence[int],
    *,
    model: Any,
    split: str = "train",
    chat_format: str | None = None,
    train_on: TrainOn = "message",
    format_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[RowView]:
    """Rows of a source, written as a model reads them; ``options`` as of :class:`Options`."""
    found = find_model(model, chat_format=chat_format, train_on=train_on, format_options=format_options)
    checker = RowChecker(Options(**options), found)
    wanted, views, count = set(rows), [], 0
    for raw in read_source(source, split=split, max_row_bytes=_MAX_ROW_BYTES):
        count = max(count, raw.row)
        if raw.row in wanted:
            views.append(_view(checker, raw, train_on))
        if raw.row >= max(wanted):
            break
    if not views:
        raise ValueError(f"{source} has {count} rows; expected a row of them, but found {_numbers(rows)}")
    return views


def _numbers(rows: Sequence[int]) -> str:
    return str(rows[0]) if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"


def _view(checker: RowChecker, raw: RawRow, train_on: TrainOn) -> RowView:
    result = checker.check_raw(raw)
    view = RowView(raw.line, raw.row, errors=result.errors, tokens=result.length, trained=result.trained)
    if raw.data is None or raw.problem is not None:
        return view
    row = raw.data if isinstance(raw.data, Mapping) else parse_row(raw.data)[0]
    try:
        for read in _reads(checker, row, RowResult(raw.line, raw.row)):
            if read.whole is not None:
                view.pieces += _pieces(checker, read, read.whole, train_on)
    except (ValueError, TypeError, RecursionError):
        if not view.errors:  # they say why a row cannot be written
            raise
    if view.pieces and view.pieces[0].ids:
        view.tokens = sum(len(piece.ids) for piece in view.pieces)
        view.trained = sum(len(piece.ids) for piece in view.pieces if piece.trained)
    if not view.pieces:
        view.raw = raw.data.decode("utf-8", "replace") if isinstance(raw.data, bytes) else str(dict(raw.data))
    return view


def _reads(checker: RowChecker, row: Mapping[str, Any] | None, result: RowResult) -> Iterator[ReadRow]:
    """The conversations of a row: one, or a chosen and a rejected one."""
    row = None if row is None else checker.adapt(row, result)
    if row is None:
        return
    read = checker.read(row, result)
    if not read.column and is_preference(row, checker.options.style):
        yield from read_sides(checker, result, row)
    else:
        yield read


def _pieces(checker: RowChecker, read: ReadRow, messages: list[Message], train_on: TrainOn) -> Iterator[Piece]:
    """The pieces of a row: segments of a format, or tokens."""
    tools = read.tools or None
    model: Any = checker.model

    def piece(text: str, ids: tuple[int, ...], index: int | None, trained: bool, control: bool) -> Piece:
        if index is None:
            return Piece(text, ids, control=control)
        role = f"{read.column}, {messages[index].role}" if read.column in SIDES else messages[index].role
        return Piece(text, ids, read.places[index].message, role, trained, control)

    if model.tokenizer is None:
        segments = model.format.render(messages, tools)
        weights = read_selector(train_on).weigh(messages, [(1, *segment[2:5]) for segment in segments])
        for segment, weight in zip(segments, weights, strict=True):
            yield piece(segment.text, (), segment.message_index, weight != 0, segment.special)
        return
    tokenizer = model.tokenizer
    tokens, untrained = tokenizer.tokenize_messages(messages, tools=tools)
    owners = tokenizer.tokenize_chat(messages, tools=tools).message_index
    for start, stop, text, control in _token_texts(tokenizer, tokens):
        yield piece(text, tuple(tokens[start:stop]), owners[start], not untrained[start], control)


def _token_texts(tokenizer: Any, ids: Sequence[int]) -> Iterator[tuple[int, int, str, bool]]:
    """Start, stop, text and whether it is a control token, for each token; tokens that share a character are one."""
    controls = tokenizer._control_texts()
    first = start = 0
    for at, token in enumerate(ids):
        if token in controls:
            if start < at:
                yield start, at, _text(tokenizer, ids, first, start, at), False
            yield at, at + 1, controls[token], True
            first = start = at + 1
            continue
        text = _text(tokenizer, ids, first, start, at + 1)
        if text.endswith(_HALF) and at + 1 < len(ids) and at + 1 - start < _WINDOW:
            continue
        yield start, at + 1, text, False
        start = at + 1
    if start < len(ids):
        yield start, len(ids), _text(tokenizer, ids, first, start, len(ids)), False


def _text(tokenizer: Any, ids: Sequence[int], first: int, start: int, stop: int) -> str:
    """The text of the tokens from ``start`` on, as they stand behind those before them."""
    begin = max(first, start - _WINDOW)
    before = tokenizer._decode_text(list(ids[begin:start])) if begin < start else ""
    whole = tokenizer._decode_text(list(ids[begin:stop]))
    return whole[len(before) :] if whole.startswith(before) else tokenizer._decode_text(list(ids[start:stop]))


def visible(text: str) -> str:
    """A text in which nothing steers a terminal or a page: what cannot be seen is written as its code."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _harmless(char) else char.encode("unicode_escape").decode() for char in text)


def _harmless(char: str) -> bool:
    if char in "\n\t" or char.isprintable():
        return True
    # Joiners within words and emoji, and spaces of all kinds, are text; marks that turn its direction are not.
    return char in "\u200c\u200d" or unicodedata.category(char) == "Zs"


def print_row(view: RowView, *, source: str, ids: bool = False, file: Any = None) -> None:
    """Prints a row with what is trained in colour; where there is no colour, between ⟦ and ⟧."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file or sys.stdout, highlight=False, soft_wrap=True)
    colour = console.color_system is not None and not console.no_color
    text = Text()
    text.append(f"{visible(source)}, {_headline(view)}\n", style="bold")
    for error in view.errors:
        at = "" if error.message is None else f"message {error.message}, "
        text.append(f"{at}{error.kind}: {visible(error.text)}\n", style="red")
    if view.pieces and colour:
        text.append("trained", style=_STYLES[True, False])
        text.append(" ").append("control token", style=_STYLES[False, True]).append("\n\n")
    elif view.pieces:
        text.append("(what stands between ⟦ and ⟧ is trained)\n\n")
    if view.pieces:
        _append_pieces(text, view.pieces, ids, colour)
    else:
        text.append(visible(view.raw), style="dim")
    console.print(text, end="\n\n")


#: Style of a piece by whether it is trained and whether it is a control token.
_STYLES = {
    (True, False): "#06240f on #a6e3b0",
    (True, True): "bold #6b1f87 on #a6e3b0",
    (False, True): "magenta",
    (False, False): "",
}


def _append_pieces(text: Text, pieces: Sequence[Piece], ids: bool, colour: bool) -> None:
    for trained, group in groupby(pieces, key=lambda piece: piece.trained):
        if trained and not colour:
            text.append("⟦")
        for control, alike in groupby(group, key=lambda piece: piece.control):
            style = _STYLES[trained, control]
            if not ids:
                text.append("".join(visible(piece.text) for piece in alike), style=style)
                continue
            for piece in alike:
                text.append(visible(piece.text), style=style)
                text.append(f"⟨{' '.join(map(str, piece.ids))}⟩" if piece.ids else "", style="dim")
        if trained and not colour:
            text.append("⟧")


def _headline(view: RowView) -> str:
    words = [f"row {view.row} (line {view.line})"]
    if view.tokens is not None:
        words.append(f"{view.tokens:,} tokens, {view.trained:,} trained")
    if view.errors:
        words.append(f"{len(view.errors)} error{'s' * (len(view.errors) > 1)}")
    return ": ".join([words[0], ", ".join(words[1:])]) if words[1:] else words[0]


def write_html(path: str | os.PathLike[str], views: Sequence[RowView], *, title: str, ids: bool = False) -> int:
    """Writes rows to a page that needs nothing but itself."""
    tokens = sum(view.tokens or 0 for view in views)
    trained = sum(view.trained or 0 for view in views)
    facts = [f"{len(views)} rows"]
    if tokens:
        facts.append(f"{tokens:,} tokens, {trained:,} trained ({100 * trained / tokens:.0f}&nbsp;%)")
    bad = sum(bool(view.errors) for view in views)
    facts.append(f"{bad} with errors" if bad else "no errors")
    body = "\n".join(_row_html(view, ids) for view in views)
    name = html.escape(visible(Path(title).name or title))
    page = _PAGE.format(title=name, facts=" · ".join(facts), style=_STYLE, rows=body)
    Path(path).expanduser().write_text(page, encoding="utf-8")
    return len(views)


def _row_html(view: RowView, ids: bool) -> str:
    errors = "".join(
        f"<li><b>{html.escape(error.kind)}</b>"
        f"{'' if error.message is None else f' in message {error.message}'}: {html.escape(visible(error.text))}</li>"
        for error in view.errors
    )
    blocks = []
    for (message, role), group in groupby(view.pieces, key=lambda piece: (piece.message, piece.role)):
        pieces = list(group)
        label = "template" if message is None else f"{message} · {role}"
        kind = "on" if any(piece.trained for piece in pieces) else "off"
        lines = "".join(_spans(pieces, ids)).split("\n")
        content = _pre(lines)
        if kind == "off" and len(lines) > _HEAD + _TAIL + 10:
            middle = f"<summary>{len(lines) - _HEAD - _TAIL} more lines</summary>{_pre(lines[_HEAD:-_TAIL])}"
            content = f'{_pre(lines[:_HEAD])}<details class="more">{middle}</details>{_pre(lines[-_TAIL:])}'
        blocks.append(f'<section class="{kind}"><h3>{html.escape(label)}</h3>{content}</section>')
    if not view.pieces:
        text = visible(view.raw[:20_000]) or "(the row could not be read)"
        blocks.append(f'<section class="off"><h3>as it stands</h3><pre dir="auto">{html.escape(text)}</pre></section>')
    return (
        f'<details open id="row-{view.row}"{" class=bad" if view.errors else ""}><summary>{_headline(view)}</summary>\n'
        f"{f'<ul>{errors}</ul>' if errors else ''}{''.join(blocks)}</details>"
    )


def _pre(lines: Sequence[str]) -> str:
    return '<pre dir="auto">' + "\n".join(lines) + "</pre>"


def _spans(pieces: Sequence[Piece], ids: bool) -> Iterator[str]:
    """The pieces as spans: one each with ids, else one for a stretch of a kind."""
    if ids:
        for piece in pieces:
            shown = _span(piece.text, piece.trained, piece.control).replace("</span>\n", "</span>")
            yield f'<span class="tok">{shown}<i>{" ".join(map(str, piece.ids))}</i></span>'
            if "\n" in piece.text:
                yield "\n"
        return
    for (trained, control), group in groupby(pieces, key=lambda piece: (piece.trained, piece.control)):
        if control:
            for piece in group:
                yield _span(piece.text, trained, True)
        else:
            yield _span("".join(piece.text for piece in group), trained, False)


def _span(text: str, trained: bool, control: bool) -> str:
    kinds = " ".join(name for name, given in (("t", trained), ("c", control)) if given)
    shown = html.escape(visible(text)).replace("\n", '<span class="nl">↵</span>\n')
    return f'<span class="{kinds}">{shown}</span>' if kinds else shown


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --dim: #68707a; --page: #f6f7f8; --card: #fff; --line: #dde1e5;
  --on: #c9efd0; --edge: #2c8a45; --control: #8a3ea8; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --dim: #949da6; --page: #14171a; --card: #1d2125;
  --line: #343a40; --on: #1f4a2c; --edge: #57b877; --control: #d59bea; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; }
header p { margin: .25rem 0; color: var(--dim); }
header span.t, header span.c { padding: 0 .3em; }
details { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: 1rem 0; overflow: hidden; }
summary { padding: .6rem .9rem; font-weight: 600; cursor: pointer; }
details.bad > summary { color: var(--bad); }
ul { margin: 0; padding: 0 1rem .6rem 2.2rem; color: var(--bad); overflow-wrap: anywhere; }
section { border-top: 1px solid var(--line); border-left: .25rem solid transparent; padding: .4rem .9rem .7rem; }
details.more { background: none; border: 0; border-radius: 0; margin: 0; }
details.more > summary { padding: .1rem 0; font-size: .8rem; color: var(--dim); }
section.on { border-left-color: var(--edge); }
h3 { margin: 0 0 .2rem; font-size: .75rem; font-weight: 600; letter-spacing: .04em; color: var(--dim); }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.65 ui-monospace, Menlo, Consolas, monospace; }
.t { background: var(--on); border-radius: .15em; }
.c { color: var(--control); font-weight: 600; }
.nl { color: var(--dim); opacity: .55; user-select: none; }
.tok { display: inline-block; vertical-align: top; margin: 0 .25em .3rem 0; border-bottom: 1px solid var(--line); }
.tok i { display: block; font: .62rem/1.1 system-ui, sans-serif; color: var(--dim); }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>
<p>{facts}</p>
<p><span class="t">trained</span> <span class="c">control token</span> <span class="nl">↵</span> end of line</p></header>
{rows}
</body>
</html>
"""
