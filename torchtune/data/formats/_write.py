"""The one writer behind every format: it keeps who owns each stretch of text, and whether the model emits it."""

from __future__ import annotations

import json
import marshal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torchtune.data._message import TOOL_ROLES, Message, ToolCall

from ._parts import Part, Segment

if TYPE_CHECKING:
    from ._base import ChatFormat

#: Stands where a tool result is text, so that a JSON null is told apart from none.
NO_VALUE: Any = object()

_compact = json.JSONEncoder(ensure_ascii=False).encode
_quoted = json.encoder.encode_basestring
#: Schemas as JSON, by their bytes and the indent: they repeat from row to row, and indenting is slow.
_schemas: dict[tuple[bytes, int | None], str] = {}
_SCHEMAS_SIZE, _SCHEMA_BYTES = 2048, 32_768


def dumps(value: Any) -> str:
    """JSON as the ``tojson`` of chat templates writes it: non-ASCII kept, a space after ``,`` and ``:``."""
    return _compact(value)


def _indented(value: Any, indent: int, line: str = "\n") -> str:
    """JSON over several lines, as ``json.dumps`` writes it but faster; ``line`` begins one at the depth of the value."""
    deeper = line + " " * indent
    if type(value) is dict and value:
        items = [f"{deeper}{_key(key)}: {_indented(item, indent, deeper)}" for key, item in value.items()]
        return "{" + ",".join(items) + line + "}"
    if type(value) in (list, tuple) and value:
        return "[" + ",".join([deeper + _indented(item, indent, deeper) for item in value]) + line + "]"
    return _quoted(value) if type(value) is str else _compact(value)


def _key(key: Any) -> str:
    return _quoted(key) if type(key) is str else _compact({key: 0})[1:-4]


def dumps_schema(schema: Any, indent: int | None = None) -> str:
    """The same for a tool's schema, over several lines where an indent is given, and remembered."""
    try:
        key = (marshal.dumps(schema, 2), indent)
    except ValueError:  # holds what is no plain value
        return json.dumps(schema, ensure_ascii=False, indent=indent)
    found = _schemas.get(key)
    if found is None:
        found = _compact(schema) if indent is None else _indented(schema, indent)
        if len(key[0]) <= _SCHEMA_BYTES:
            if len(_schemas) >= _SCHEMAS_SIZE:
                _schemas.clear()
            _schemas[key] = found
    return found


def wrap_tools(tools: Sequence[Mapping[str, Any]] | str | None, name: str) -> list[dict[str, Any]]:
    """Tools as ``{"type": "function", "function": {...}}``, whether they came wrapped, bare, or as JSON."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise ValueError(f"Format {name}: tools are a string that is no JSON ({error}); pass a list.") from None
    if tools is None:
        return []
    if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError(f"Format {name}: tools must be a list of function schemas, found {str(tools)[:80]!r}.")
    return [dict(t) if "function" in t else {"type": "function", "function": dict(t)} for t in tools]


class Piece(NamedTuple):
    """A stretch of a turn's text that is of one part and one message."""

    text: str
    part: Part = "content"
    message_index: int | None = None
    media: Any = None


@dataclass
class Turn:
    """A message as the writers of the families see it."""

    index: int | None
    role: Literal["system", "user", "assistant", "tool"]
    pieces: list[Piece] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    reasoning: str | None = None
    value: Any = NO_VALUE
    call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The text of all pieces."""
        return self.pieces[0].text if len(self.pieces) == 1 else "".join([piece.text for piece in self.pieces])

    @property
    def has_media(self) -> bool:
        return any(piece.media is not None for piece in self.pieces)

    def stripped(self) -> list[Piece]:
        """The pieces without white space at the turn's two ends."""
        pieces = list(self.pieces)
        if len(pieces) == 1 and pieces[0].text and not (pieces[0].text[0].isspace() or pieces[0].text[-1].isspace()):
            return pieces
        for end, strip in ((0, str.lstrip), (-1, str.rstrip)):
            while pieces and pieces[end].media is None:
                text = strip(pieces[end].text)
                if text:
                    pieces[end] = pieces[end]._replace(text=text)
                    break
                pieces.pop(end)
        return pieces

    @classmethod
    def of(cls, index: int, message: Message, fmt: ChatFormat) -> Turn:
        """The turn of a message."""
        role: Any = "tool" if message.role in TOOL_ROLES else message.role
        calls = list(message.tool_calls) if message.tool_calls else []
        turn = cls(index, role, [], calls, message.reasoning_content, NO_VALUE, message.tool_call_id, message.name)
        for part in message.content:
            kind, content = part.get("type"), part.get("content")
            if kind == "text":
                turn.pieces.append(Piece(content or ""))
            elif kind == "json" and role == "tool":
                turn.value = content
            elif kind == "image" and fmt.image_token:
                turn.pieces.append(Piece("", media=content))
            else:
                raise fmt.refuse(turn, f"found content of type {kind!r}", "This format writes text only.")
        if turn.value is not NO_VALUE and turn.pieces:
            raise fmt.refuse(turn, "found a tool result of both text and a JSON value", "Give one of the two.")
        for call in turn.calls:
            _check_call(turn, call, fmt)
        return turn


def _check_call(turn: Turn, call: ToolCall, fmt: ChatFormat) -> None:
    name = call.name
    if not isinstance(name, str) or not name or not name.isprintable() or any(c in name for c in ' "\\'):
        raise fmt.refuse(
            turn,
            f"found the function name {name!r}",
            "A name has no spaces, quotes, backslashes or control characters.",
        )
    if not isinstance(call.arguments, dict):
        raise fmt.refuse(
            turn,
            f"the arguments of {name!r} are {type(call.arguments).__name__}",
            "Pass them as a dict of JSON values.",
        )


@dataclass
class Chat:
    """A whole conversation, ready to be written; ``generate`` tells that a generation prompt follows."""

    turns: list[Turn]
    tools: list[dict[str, Any]]
    options: SimpleNamespace
    generate: bool = False

    @classmethod
    def of(cls, messages: Sequence[Message], tools: Any, options: Any, generate: bool, fmt: ChatFormat) -> Chat:
        turns = [Turn.of(index, message, fmt) for index, message in enumerate(messages)]
        return cls(turns, wrap_tools(tools, fmt.name), options, generate)

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The tools without their wrapper."""
        return [tool["function"] for tool in self.tools]

    def split_system(self) -> tuple[Turn | None, list[Turn]]:
        """The system turn if the conversation starts with one, and the turns after it."""
        if self.turns and self.turns[0].role == "system":
            return self.turns[0], self.turns[1:]
        return None, self.turns

    def refuse_late_system(self, fmt: ChatFormat) -> None:
        """Refuses a system message that is not the first."""
        for turn in self.turns[1:]:
            if turn.role == "system":
                raise fmt.refuse(turn, "found a system message after the start", "Put the system message first.")

    def last(self, *roles: str) -> int:
        """Position of the last turn of one of these roles, -1 if there is none."""
        return max((at for at, turn in enumerate(self.turns) if turn.role in roles), default=-1)

    def answered(self) -> dict[int, ToolCall]:
        """Position of each tool result -> the call it answers: by its id, or where it has none by its name or its place."""
        answered: dict[int, ToolCall] = {}
        waiting: list[ToolCall] = []
        for at, turn in enumerate(self.turns):
            if turn.calls:
                waiting = list(turn.calls)
            elif turn.role == "tool":
                by_id = turn.call_id is not None
                fits = [c for c in waiting if (c.id == turn.call_id if by_id else c.name == turn.name)]
                if match := (fits or ([] if by_id else waiting))[:1]:
                    answered[at] = match[0]
                    waiting = [c for c in waiting if c is not match[0]]
        return answered

    def call_names(self) -> dict[int, str]:
        """Position of each tool result -> name of the function it answers."""
        named = {at: turn.name for at, turn in enumerate(self.turns) if turn.role == "tool" and turn.name}
        return {at: call.name for at, call in self.answered().items()} | named


class Writer:
    """Collects segments. Set :meth:`turn` and :attr:`sampled` before the text that they hold for."""

    def __init__(self, fmt: ChatFormat) -> None:
        self.segments: list[Segment] = []
        self.sampled = False
        self._fmt = fmt
        self._literals = fmt._literals
        self._index: int | None = None

    def turn(self, turn: Turn | int | None) -> None:
        """What follows belongs to this turn and is not sampled."""
        self._index = turn if isinstance(turn, int) or turn is None else turn.index
        self.sampled = False

    def lit(self, text: str, part: Part | None = None) -> None:
        """Writes the format's own text; control tokens in it become segments of their own."""
        if text:
            key = (text, self._index, self.sampled, part)
            self.segments += self._literals.get(key) or self._fmt.literal(*key)

    def text(self, text: str, part: Part | None = "content") -> None:
        """Writes text from the data, in which nothing is a control token."""
        if text:
            # Its own __new__ takes three times as long, and a row has dozens of segments.
            self.segments.append(tuple.__new__(Segment, (text, False, self._index, self.sampled, part, None)))

    def weave(self, part: Part | None, *texts: str) -> None:
        """Writes the format's own text and text from the data in turn, the former first."""
        for at, text in enumerate(texts):
            (self.text if at % 2 else self.lit)(text, part)

    def content(self, pieces: Sequence[Piece], part: Part | None = None) -> None:
        """Writes the pieces of a turn, images included."""
        index, before = self._index, self._index
        for piece in pieces:
            self._index = index if piece.message_index is None else piece.message_index
            if piece.media is not None:
                token = self._fmt.image_token or ""
                self.segments.append(Segment(token, True, self._index, self.sampled, "content", piece.media))
            else:
                self.text(piece.text, part or piece.part)
        self._index = before

    def end(self, token: str, after: str = "") -> None:
        """Writes the turn's end token, then scaffolding that nobody samples."""
        self.lit(token, "end")
        self.sampled = False
        self.lit(after)
