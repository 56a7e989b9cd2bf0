"""Finds out which message each character of a rendered chat template belongs to, and what of it the model emits.

The template is asked, not read. The conversation is rendered a second time with a private character of each message's own
set inside its texts; where these come out is where the message stands. That holds for templates that rewrite history too:
what they drop has no mark, and what they keep is found where it is. A turn of the model then runs from the end of the
generation prompt before it to the first end token behind it. Where a template marks ``{% generation %}`` itself, that is
taken instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from torchtune.modules.transforms.tokenizers._hf_template import CLOSE, OPEN, Template, Texts

if TYPE_CHECKING:
    from torchtune.data._message import Message
    from torchtune.data.formats import Segment
    from torchtune.data.formats._base import Part

#: Private-use characters of planes 15 and 16, for marks; those that a conversation holds itself are left out.
_PRIVATE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))
#: Around tags a text is marked piece by piece, since templates split texts there.
_TAG = re.compile(r"(</?[^\s<>]+>)")
_KINDS: tuple[Literal["content", "reasoning", "call"], ...] = ("content", "reasoning", "call")


@dataclass
class Controls:
    """The control tokens of a model.

    ``hard`` are those that may not even stand in the model's own text, such as the end of a turn; ``stops`` end a turn.
    """

    texts: frozenset[str]
    hard: frozenset[str]
    stops: tuple[str, ...]
    pattern: re.Pattern[str] = field(init=False)
    hard_pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        self.pattern, self.hard_pattern = any_of(self.texts), any_of(self.hard)


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of the texts, the longest first; those of one character can't be told from text."""
    found = sorted((re.escape(text) for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(found) or r"(?!)")


@dataclass
class Place:
    """Where a message stands: the first and last of its marks, and where its content and reasoning are."""

    start: int
    end: int
    parts: list[tuple[int, int, Part]] = field(default_factory=list)


@dataclass
class Owned:
    """What each stretch of a text is: cuts at which the owner changes, and the owners from there on."""

    cuts: list[tuple[int, int | None, bool, Part | None]] = field(default_factory=list)

    def add(self, at: int, index: int | None, sampled: bool, part: Part | None) -> None:
        self.cuts.append((at, index, sampled, part))


class Tracer:
    """Renders one conversation and traces it; an error where the template refuses it, or leaves anything out."""

    def __init__(self, template: Template, controls: Controls, messages: Sequence[Message], tools: Any) -> None:
        template.now = datetime.now()
        self.template, self.controls = template, controls
        self.messages, self.tools = list(messages), tools
        self.free = _free_characters(self.messages, tools)
        self.breaker = next(self.free)
        self.own = [next(self.free) for _ in range(3 * len(self.messages))]
        self.index_of = {character: at for at, character in enumerate(self.own)}
        self.marks = re.compile(f"[{''.join(self.own)}]") if self.own else re.compile(r"(?!)")
        self.arguments_as_text = False
        #: Per message and kind, the texts that were marked: (text, position of the mark in it).
        self.marked: dict[int, list[tuple[str, int]]] = {}
        #: Messages that the template writes otherwise once they are marked.
        self.unmarked: set[int] = set()

    # Rendering.

    def text(self, prompt: bool = False, count: int | None = None) -> str:
        """The conversation, or its first ``count`` messages, with look-alikes of control tokens broken."""
        return self._render(self._break, prompt, count)

    def _render(self, change: Callable[[str, int | None, str], str], prompt: bool, count: int | None) -> str:
        texts = Texts(change)
        rows = texts.messages(self.messages[:count], self.arguments_as_text)
        try:
            return self.template(rows, texts.value(self.tools, None, "tool"), prompt)
        except TypeError as error:
            if self.arguments_as_text or not any(message.tool_calls for message in self.messages):
                raise ValueError(f"The model's chat template fails on this conversation: {error}") from error
            self.arguments_as_text = True
            return self._render(change, prompt, count)

    def _break(self, text: str, index: int | None, kind: str) -> str:
        """Splits what only looks like a control token."""
        own_words = kind in ("content", "reasoning") and index is not None and self.messages[index].role == "assistant"
        pattern = self.controls.hard_pattern if own_words else self.controls.pattern
        while pattern.search(text):
            text = pattern.sub(lambda match: match[0][0] + self.breaker + match[0][1:], text)
        return text

    def _mark(self, text: str, index: int | None, kind: str) -> str:
        """Sets a mark into each piece of a text, never at its ends, where templates trim."""
        text = self._break(text, index, kind)
        if index is None or index in self.unmarked or kind not in _KINDS or not text.strip():
            return text
        pieces = [text] if kind == "call" else _TAG.split(text)
        words = [piece for piece in pieces if piece.strip() and not _TAG.fullmatch(piece)]
        if not words:
            pieces = words = [text]
        at = 3 * index + _KINDS.index(kind)
        out, offset = [], 0
        for piece in pieces:
            if piece in words:
                bare = piece.strip()
                middle = piece.index(bare) + (len(bare) + 1) // 2
                self.marked.setdefault(at, []).append((text, offset + middle))
                out.append(piece[:middle] + self.own[at] + piece[middle:])
            else:
                out.append(piece)
            offset += len(piece)
        return "".join(out)

    # Tracing.

    def segments(self, prompt: bool) -> list[Segment]:
        """The rendered conversation with its owners."""
        raw = self.text(prompt=prompt)
        raw = self._with_readable_arguments(raw, prompt)
        text, generation = take_out_generation(raw)
        body = self.text() if prompt else raw
        places = self._places(text, prompt)
        self._check_nothing_lost(places, text)
        owned = self._owners(
            text, places, generation, len(text) if not prompt else _common(text, take_out_generation(body)[0])
        )
        return self._cut(text, owned)

    def _with_readable_arguments(self, raw: str, prompt: bool) -> str:
        """Renders anew with arguments as JSON text where the template prints a dict as Python does."""
        if self.arguments_as_text:
            return raw
        for message in self.messages:
            for call in message.tool_calls or ():
                as_python, as_json = str(call.arguments), json.dumps(call.arguments, ensure_ascii=False)
                if as_python != as_json and as_python in raw and as_json not in raw:
                    self.arguments_as_text = True
                    return self.text(prompt=prompt)
        return raw

    def _places(self, text: str, prompt: bool) -> dict[int, Place]:
        """Where each message stands in the text."""
        self.marked.clear()
        found = take_out_generation(self._render(self._mark, prompt, None))[0]
        if self.marks.sub("", found) == text:
            return self._read_marks(found, text)
        places: dict[int, Place] = {}
        for index in range(len(self.messages)):
            self.marked.clear()

            def change(value: str, at: int | None, kind: str, only: int = index) -> str:
                return self._mark(value, at, kind) if at == only else self._break(value, at, kind)

            found = take_out_generation(self._render(change, prompt, None))[0]
            if self.marks.sub("", found) == text:
                places.update(self._read_marks(found, text))
            else:
                self.unmarked.add(index)
        for index in self.unmarked:
            self._search(text, index, places)
        return places

    def _search(self, text: str, index: int, places: dict[int, Place]) -> None:
        """Looks for a message that the template writes otherwise once it is marked, such as a number that it reads."""
        words = self.messages[index].text_content.strip()
        start = max((place.end for at, place in places.items() if at < index), default=0)
        at = text.find(words, start) if words else -1
        if at >= 0:
            part: Part = "result" if self.messages[index].role in ("tool", "ipython") else "content"
            places[index] = Place(at, at + len(words), [(at, at + len(words), part)])
        elif self.messages[index].role == "assistant":
            raise ValueError(
                f"Message {index} (assistant): the model's chat template writes something else once this message is "
                "changed, so what belongs to it can't be told. Use the tokenizer of the family with a chat_format."
            )

    def _read_marks(self, marked: str, text: str) -> dict[int, Place]:
        """Places from the marks in a text; what stands around a mark as in the message is of the message."""
        places: dict[int, Place] = {}
        for removed, match in enumerate(self.marks.finditer(marked)):
            at = match.start() - removed
            owner = self.index_of[match[0]]
            index, kind = owner // 3, _KINDS[owner % 3]
            start, end = at, at
            for source, middle in self.marked.get(owner, ()):
                left = _common(source[:middle][::-1], text[max(at - middle, 0) : at][::-1])
                right = _common(source[middle:], text[at : at + len(source) - middle])
                if left + right > end - start:
                    start, end = at - left, at + right
            place = places.setdefault(index, Place(start, end))
            place.start, place.end = min(place.start, start), max(place.end, end)
            part: Part = "result" if self.messages[index].role in ("tool", "ipython") else kind
            place.parts.append((start, end, part))
        return places

    def _check_nothing_lost(self, places: dict[int, Place], text: str) -> None:
        for index, message in enumerate(self.messages):
            if index in self.unmarked:
                continue
            kinds = {part for _, _, part in places[index].parts} if index in places else set()
            content = message.text_content.strip()
            what = None
            if message.tool_calls and "call" not in kinds:
                what = f"the call of {message.tool_calls[0].name!r}"
            elif content and not kinds & {"content", "result"}:
                what = "its text beside the calls" if message.tool_calls else "its text"
            if what is not None:
                raise ValueError(
                    f"Message {index} ({message.role}): the model's chat template leaves out {what}. Change the message, "
                    "or use a chat_format or a template that writes it."
                )
        calls_used = any(message.tool_calls for message in self.messages)
        for tool in self.tools or () if calls_used else ():
            name = tool.get("function", tool).get("name")
            if name and str(name) not in text:
                raise ValueError(f"The model's chat template leaves out the tool {name!r}; use a template for tools.")

    def _owners(self, text: str, places: dict[int, Place], generation: list[tuple[int, int]], stop: int) -> Owned:
        """Who owns each stretch, from the places of the messages."""
        owned = Owned()
        owned.add(0, None, False, None)
        order = self._in_order(places, text, stop)
        speakers = [index for index, _ in order if self.messages[index].role == "assistant"]
        exact = dict(zip(speakers, generation, strict=True)) if len(generation) == len(speakers) else {}
        header = prompt_of(self.template)
        before = anchor = 0
        for at, (index, place) in enumerate(order):
            limit = order[at + 1][1].start if at + 1 < len(order) else stop
            if self.messages[index].role == "assistant":
                opens, start = self._turn_start(text, header, before, anchor, place, index)
                end = self._turn_end(text, place, limit, index)
                if index in exact:
                    start, end = exact[index]
                    opens = min(opens, start)
                owned.add(min(opens, start), index, False, "header")
                self._add_turn(owned, text, index, place, start, end)
                before = end + _blank(text, end, limit)
                owned.add(end, index, False, None)
            else:
                owned.add(self._message_start(text, before, place), index, False, "header")
                for start, end, part in sorted(place.parts):
                    owned.add(start, index, False, part)
                    owned.add(end, index, False, "end")
                before = place.end
            anchor = anchor if index in self.unmarked else place.end
        if stop < len(text):
            owned.add(stop, None, False, "header")
        return owned

    def _in_order(self, places: dict[int, Place], text: str, stop: int) -> list[tuple[int, Place]]:
        """Messages by where they stand; one without any text stands where the template puts its header."""
        order = sorted(places.items(), key=lambda item: item[1].start)
        for index, message in enumerate(self.messages):
            if index in places or message.role != "assistant":
                continue
            start = len(take_out_generation(self.text(prompt=True, count=index))[0]) if index else 0
            order.append((index, Place(min(start, stop), min(start, stop))))
        return sorted(order, key=lambda item: (item[1].start, item[0]))

    def _turn_start(
        self, text: str, header: str, before: int, anchor: int, place: Place, index: int
    ) -> tuple[int, int]:
        """Where an assistant turn's header begins, and where what the model emits begins."""
        spoken = place.start + _blank(text, place.start, place.end)
        pieces = _split_at(self.controls.pattern, header)
        for count in dict.fromkeys((len(pieces), 2, 1) if pieces else ()):
            prefix = "".join(pieces[:count])
            at = text.rfind(prefix, before, spoken)
            if at >= 0:
                return at, at + len(prefix)
        tail = self._tail(index, prompt=True)
        start = anchor + len(tail) if text.startswith(tail, anchor) else place.start
        return start, min(start, place.start)

    def _turn_end(self, text: str, place: Place, limit: int, index: int) -> int:
        """Where what the model emits ends: behind the first end token, or where its turn ends if it has none."""
        for match in self.controls.pattern.finditer(text, place.end, limit):
            if match[0] in self.controls.stops:
                return match.end()
        tail = self._tail(index + 1, prompt=False)
        return place.end + _common(tail.rstrip(), text[place.end : limit])

    def _tail(self, count: int, prompt: bool) -> str:
        """What stands behind the last mark when only the first ``count`` messages are rendered."""
        self.marked.clear()
        found = take_out_generation(self._render(self._mark, prompt, count))[0]
        plain = self.marks.sub("", found)
        places = self._read_marks(found, plain)
        return plain[max((place.end for place in places.values()), default=0) :]

    def _message_start(self, text: str, before: int, place: Place) -> int:
        """Where a message of the user, the system or a tool begins: at the first control token after the one before."""
        match = self.controls.pattern.search(text, before, place.start)
        while match and match[0] in self.controls.stops:
            before = match.end() + _blank(text, match.end(), place.start)
            match = self.controls.pattern.search(text, before, place.start)
        return before if match is None else match.start()

    def _add_turn(self, owned: Owned, text: str, index: int, place: Place, start: int, end: int) -> None:
        """The sampled stretch of an assistant turn, by its parts."""
        calls = bool(self.messages[index].tool_calls)
        spoken = [span for span in sorted(place.parts) if span[2] != "call"]
        first_call = max((span[1] for span in spoken), default=start) if calls else end
        owned.add(start, index, True, "content" if not calls or spoken else "call")
        for a, b, part in spoken:
            owned.add(max(a, start), index, True, part)
            owned.add(b, index, True, part)
        if calls and spoken:
            owned.add(first_call, index, True, "call")
        last = None
        for match in self.controls.pattern.finditer(text, max(place.end, start), end):
            last = match
        if last is not None and last.end() == end and last[0] in self.controls.stops:
            owned.add(last.start(), index, True, "end")

    def _cut(self, text: str, owned: Owned) -> list[Segment]:
        """Segments of the text: owners from the cuts, control tokens apart, look-alikes put together again."""
        from torchtune.data.formats import Segment

        segments: list[Segment] = []
        cuts = sorted(owned.cuts, key=lambda cut: cut[0])
        for at, (start, index, sampled, part) in enumerate(cuts):
            end = cuts[at + 1][0] if at + 1 < len(cuts) else len(text)
            for piece, control in _pieces(self.controls.pattern, text, start, end):
                plain = piece.replace(self.breaker, "")
                if plain:
                    segments.append(Segment(plain, control, index, sampled, part))
        return segments


def prompt_of(template: Template) -> str:
    """What the template writes for the model to go on: the header of an assistant turn."""
    if template.prompt is None:
        row = [{"role": "user", "content": "x"}]
        try:
            closed, opened = template(row, None, False), template(row, None, True)
            template.prompt = opened[len(closed) :] if opened.startswith(closed) else ""
        except ValueError:
            template.prompt = ""
    return template.prompt


def end_of_turn(template: Template, controls: re.Pattern[str]) -> str | None:
    """The control token that the template itself ends an assistant turn in, or None."""
    answer = "\ufdd4"
    rows = [{"role": role, "content": text} for role, text in (("user", "x"), ("assistant", answer), ("user", "z"))]
    try:
        tails = [take_out_generation(template(rows[:count], None, False))[0].partition(answer)[2] for count in (2, 3)]
    except ValueError:
        return None
    found = [controls.search(tail) for tail in tails]
    if found[0] is None or found[1] is None or found[0][0] != found[1][0]:
        return None
    return found[0][0]


def _free_characters(messages: Sequence[Message], tools: Any) -> Iterator[str]:
    used = set(json.dumps(tools, ensure_ascii=False)) if tools else set()
    for message in messages:
        used.update(message.text_content, message.reasoning_content or "")
        for call in message.tool_calls or ():
            used.update(call.name, json.dumps(call.arguments, ensure_ascii=False))
    taken = {ord(character) for character in used if ord(character) >= _PRIVATE[0]}
    return (chr(code) for code in _PRIVATE if code not in taken)


def take_out_generation(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without the signs around what ``{% generation %}`` holds, and where these spans are."""
    if OPEN not in text:
        return text, []
    spans, out, at = [], [], 0
    for piece in re.split(f"([{OPEN}{CLOSE}])", text):
        if piece == OPEN:
            start = at
        elif piece == CLOSE:
            spans.append((start, at))
        else:
            out.append(piece)
            at += len(piece)
    return "".join(out), spans


def _common(a: str, b: str) -> int:
    """Length of the common start of two texts."""
    if a.startswith(b):
        return len(b)
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _blank(text: str, start: int, stop: int) -> int:
    """Length of the white space at a place."""
    stretch = text[start:stop]
    return len(stretch) - len(stretch.lstrip())


def _split_at(pattern: re.Pattern[str], text: str) -> list[str]:
    """A text cut around control tokens."""
    return [piece for piece, _ in _pieces(pattern, text, 0, len(text)) if piece]


def _pieces(pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[str, bool]]:
    """Stretches of a text, each with whether it is a control token."""
    at = start
    for match in pattern.finditer(text, start, end):
        yield text[at : match.start()], False
        yield match[0], True
        at = match.end()
    yield text[at:end], False
