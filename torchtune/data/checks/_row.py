"""One row: all that is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torchtune.data._arrow import holds_null, looks_padded, unpad_calls, unpad_tools
from torchtune.data._flags import set_flags
from torchtune.data._masking import MaskingStrategy, mask_messages
from torchtune.data._message import TOOL_ROLES, Message, ToolCall
from torchtune.data._tool_calls import read_json
from torchtune.data._tool_sets import TOOL_SETS
from torchtune.data._tools import find_tools, read_tools, tool_name
from torchtune.data._turns import CALL_ROLES, ROLES, Place, collect_turns
from torchtune.data._utils import read_tools_option
from torchtune.data._validate import iter_problems
from torchtune.data.checks._model import Model
from torchtune.data.checks._preference import check_preference, is_preference
from torchtune.data.checks._report import RowError, RowResult
from torchtune.data.checks._schema import ArgumentChecker
from torchtune.data.checks._source import MAX_DEPTH, RawRow, depth_of, parse_row

COLUMNS = {"openai": "messages", "sharegpt": "conversations"}
#: Columns of rows that are no conversations, but train all the same.
_PROMPTED = ({"instruction", "output"}, {"input", "output"}, {"prompt", "completion"}, {"prompt", "response"})
_INDEX = re.compile(r"\b(?:message|index) (\d+)\b|\bmessages?\[(\d+)\]")
_REMOTE = re.compile(r"[a-z0-9]+://|data:")
_CALL_WORDS = re.compile(r"\bcalls?\b|arguments|JSON")
#: After one of these the conversation is not one that could be written down, so a format is not asked.
_STRUCTURAL = frozenset(
    [
        *("too_few_messages", "unknown_role", "role_order", "call_without_name", "arguments_not_object", "bad_message"),
        *("repeated_call_id", "repeated_result_id", "unknown_result_id", "extra_result", "nesting", "bad_tools"),
        *("missing_image", "encoding"),
    ]
)


@dataclass
class Options:
    """How rows are read and what they are held to; see :func:`check_rows`."""

    style: str = "auto"
    conversation_column: str | None = None
    tools_column: str = "tools"
    tools: Any = None
    builtin_tools: Collection[str] = ()
    parse_text_calls: bool = False
    max_seq_len: int | None = None

    def __post_init__(self) -> None:
        self.tools = None if self.tools is None else read_tools_option(self.tools)


@dataclass
class ReadRow:
    """A row as it was read: its column (empty where there is no conversation), messages (None where one cannot be read),
    their places, tools, and faults so far.
    """

    column: str
    messages: list[Message | None] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    turns: list[dict[str, Any] | None] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    errors: list[RowError] = field(default_factory=list)

    @property
    def whole(self) -> list[Message] | None:
        """The messages, where all could be read."""
        read = [message for message in self.messages if message is not None]
        return read if read and len(read) == len(self.messages) else None


class RowChecker:
    """Checks rows, one by one, each for itself."""

    def __init__(self, options: Options, model: Model | None) -> None:
        #: The public set whose rows these are, and the form that they are brought into.
        self._set = TOOL_SETS.get(options.style)
        if self._set is not None:
            text_calls = options.parse_text_calls or self._set.options.get("parse_text_calls", False)
            options = replace(options, style=self._set.style, parse_text_calls=text_calls)
        self.options = options
        self.model = model
        self._arguments = ArgumentChecker()

    def check_raw(self, raw: RawRow) -> RowResult:
        """All that is wrong with a row as it stands in its source, where it may be none."""
        if raw.data is None or raw.problem is not None:
            result = RowResult(raw.line, raw.row)
            result.errors.append(result.error(None, *(raw.problem or ("bad_json", "There is no row"))))
            return result
        return self.check(raw.line, raw.row, raw.data)

    def check(self, line: int, number: int, data: bytes | Mapping[str, Any]) -> RowResult:
        """All that is wrong with a row, and what is to be counted of it. Never raises on what a row holds."""
        result = RowResult(line, number)
        try:
            self._check(result, data)
        except RecursionError:
            result.errors.append(result.error(None, "nesting", f"The row is nested deeper than {MAX_DEPTH} levels"))
        except (TypeError, AttributeError, LookupError) as error:
            text = f"The row cannot be read: {type(error).__name__}: {error}; a value in it has a type nobody expects there"
            result.errors.append(result.error(None, "unreadable", text))
        return result

    def _check(self, result: RowResult, data: bytes | Mapping[str, Any]) -> None:
        row, faults = (data, []) if isinstance(data, Mapping) else parse_row(data)
        result.errors += [result.error(None, kind, text) for kind, text in faults]
        row = None if row is None else self.adapt(row, result)
        if row is None:
            return
        deep = not isinstance(data, bytes) or data.count(b"{") + data.count(b"[") > MAX_DEPTH
        if is_preference(row, self.options.style) and not self._column(row):
            check_preference(self, result, row, check_depth=deep)
            return
        read = self.read(row, result, check_depth=deep)
        if not read.column:
            result.errors += read.errors
            result.key = _key(row)
            return
        result.key = row_key(row, read)
        if row.get("system") and read.column != "system":
            result.notes.add("system_column")
        self.judge(result, read)

    def adapt(self, row: Mapping[str, Any], result: RowResult) -> Mapping[str, Any] | None:
        """A row of a public set as a conversation; None, with its fault, where it is none of this set."""
        if self._set is None:
            return row
        try:
            return self._set.adapt(row)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            text = f"The row is not one of {self._set.source}: {str(error) or type(error).__name__}"
            result.errors.append(result.error(None, "bad_conversation", text))
            return None

    def judge(self, result: RowResult, read: ReadRow) -> None:
        """Adds to a result what is wrong with a conversation that was read, and what is to be counted of it."""
        result.errors += read.errors
        self._count(result, read)
        result.errors += self._conversation_errors(result, read)
        result.errors += self._argument_errors(result, read)
        result.errors += self._target_errors(result, read)
        if read.whole is not None and not any(error.kind in _STRUCTURAL for error in result.errors):
            self._ask_model(result, read, read.whole)
        result.errors.sort(key=lambda error: -1 if error.message is None else error.message)

    def read(self, row: Mapping[str, Any], result: RowResult, *, column: str = "", check_depth: bool = True) -> ReadRow:
        """The row as it is read for training, but with every fault instead of the first."""
        o = self.options
        column = column or self._column(row)
        read = ReadRow(column)

        def fault(message: int | None, kind: str, text: str, place: str = "") -> None:
            read.errors.append(result.error(message, kind, text, place))

        if not column:
            names = "'chosen' and 'rejected'" if o.style == "preference" else "'messages' (or 'conversations')"
            wanted = repr(o.conversation_column) if o.conversation_column else names
            text = f"The row has no column {wanted}; found {sorted(map(str, row))}. {_way_out(row)}"
            fault(None, "no_conversation", text)
            return read
        rows, padded = row[column], False
        if isinstance(rows, str):
            try:
                rows = read_json(rows, f"Column {column!r}")
            except ValueError as error:
                fault(None, "bad_conversation", str(error), column)
                return ReadRow("", errors=read.errors)
        elif isinstance(rows, Sequence):
            padded = looks_padded(rows)
        if not isinstance(rows, Sequence) or isinstance(rows, str):
            found = f"{type(rows).__name__}: {rows!r:.80}"
            fault(None, "bad_conversation", f"Column {column!r} must be a list of messages, but found {found}", column)
            return ReadRow("", errors=read.errors)
        if rows and all(isinstance(item, (list, tuple)) for item in rows):
            rows = [message for item in rows for message in item]
        deep = {i for i, message in enumerate(rows) if check_depth and depth_of(message) > MAX_DEPTH}
        for i in sorted(deep):
            fault(i, "nesting", f"Message {i} is nested deeper than {MAX_DEPTH} levels", f"{column}[{i}]")
        self._read_tools(row, read, padded, fault)
        if not deep and not isinstance(row[column], str):
            rows = unpad_calls(rows, read.tools or [], padded=padded)
        turns, places, errors = collect_turns(rows, column=column, parse_text_calls=o.parse_text_calls, unread=deep)
        for i, why in errors:
            kind, text = _kind_of(rows[i], str(why)), str(why)
            if isinstance(why.__cause__, RecursionError):
                kind, text = "nesting", f"A value in message {i} is nested deeper than {MAX_DEPTH} levels: {text[:200]}"
            elif isinstance(why.__cause__, UnicodeError):
                kind = "encoding"
            fault(i, kind, text, f"{column}[{i}]")
        read.turns, read.places = turns, places
        for turn, place in zip(turns, places, strict=True):
            message = None if turn is None else self._message(turn, place, fault, column, check_depth)
            read.messages.append(message)
        flagged = [message or Message("user", "") for message in read.messages]
        set_flags(flagged)
        mask_messages(flagged, MaskingStrategy.TRAIN_ON_ASSISTANT)
        return read

    def _column(self, row: Mapping[str, Any]) -> str:
        o = self.options
        if o.conversation_column is not None:
            return o.conversation_column if o.conversation_column in row else ""
        names = COLUMNS.values() if o.style == "auto" else [COLUMNS[o.style]] if o.style in COLUMNS else []
        return next((name for name in names if name in row), "")

    def _read_tools(self, row: Mapping[str, Any], read: ReadRow, padded: bool, fault: Any) -> None:
        """The tools of the row, or those of all rows; an empty list in the row declares that there are none."""
        column, value = find_tools(row, self.options.tools_column)
        if value is None:
            read.tools = None if self.options.tools is None else [dict(tool) for tool in self.options.tools]
            return
        if depth_of(value) > MAX_DEPTH:
            fault(None, "bad_tools", f"Column {column!r} is nested deeper than {MAX_DEPTH} levels", column)
            return
        given = unpad_tools(value, padded=padded) if holds_null(value) else value
        try:
            given = read_json(given, f"Column {column!r}") if isinstance(given, str) and given.strip() else given
            items = given if isinstance(given, Sequence) and not isinstance(given, str) else None
            if items is None:
                tools = read_tools(given, f"Column {column!r}")
                read.tools = tools or None
                return
        except ValueError as error:
            fault(None, "bad_tools", str(error), column)
            return
        read.tools = []
        names: set[str | None] = set()
        for i, item in enumerate(items):
            try:
                (tool,) = read_tools([item], f"Column {column!r}")
            except ValueError as error:
                text = str(error).replace(f"Column {column!r}[0]", f"Column {column!r}[{i}]")
                fault(None, "bad_tools", text, f"{column}[{i}]")
                if not isinstance(item, Mapping) or tool_name(item) is None:
                    continue
                tool = dict(item)  # what calls it is right all the same
            if depth_of(tool) > MAX_DEPTH:
                text = f"Column {column!r}[{i}] is nested deeper than {MAX_DEPTH} levels"
                fault(None, "bad_tools", text, f"{column}[{i}]")
                continue
            if tool_name(tool) in names:
                text = f"Column {column!r}[{i}] declares {tool_name(tool)!r} again; expected each name once"
                fault(None, "repeated_tool", text, f"{column}[{i}]")
            names.add(tool_name(tool))
            read.tools.append(tool)

    def _message(
        self, turn: dict[str, Any], place: Place, fault: Any, column: str, check_depth: bool
    ) -> Message | None:
        """The message of a turn; None, with its fault, where there can be no such message."""
        at, where = place.message, f"{column}[{place.message}]"
        if check_depth and depth_of(turn) > MAX_DEPTH:
            fault(at, "nesting", f"A value in message {at} is nested deeper than {MAX_DEPTH} levels", where)
            return None
        for part in turn["content"] if isinstance(turn["content"], list) else ():
            image = part["content"] if part["type"] == "image" else None
            if isinstance(image, (str, Path)) and not _REMOTE.match(str(image)) and not Path(image).is_file():
                fault(at, "missing_image", f"Message {at}: there is no image file {str(image)[:200]!r}", where)
        calls = {"tool_calls": [ToolCall(**call) for call in turn["tool_calls"]]} if "tool_calls" in turn else {}
        try:
            return Message(**{**turn, **calls})
        except ValueError as error:
            fault(at, "bad_message", f"Message {at}: {error}", where)
            return None

    def _conversation_errors(self, result: RowResult, read: ReadRow) -> Iterator[RowError]:
        """Roles and order, ids, undeclared tools."""

        def place(index: int, call: int | None) -> int:
            at = read.places[index]
            return at.message if call is None or call >= len(at.calls) else at.calls[call]

        for problem in iter_problems(read.messages, read.tools, builtin_tools=self.options.builtin_tools, place=place):
            at = None if problem.index is None else place(problem.index, problem.call)
            where = read.column if at is None else f"{read.column}[{at}].{problem.field}".rstrip(".")
            yield result.error(at, problem.kind, problem.text, where)
        if result.counts["calls"] and read.tools is None:
            result.notes.add("no_tools")

    def _argument_errors(self, result: RowResult, read: ReadRow) -> Iterator[RowError]:
        """Schemas that are none, and arguments that theirs does not allow."""
        column, schemas = self.options.tools_column, {}
        for i, tool in enumerate(read.tools or ()):
            compiled = self._arguments.schema(tool)
            schemas[tool_name(tool)] = compiled
            if compiled.dialect:
                result.notes.add("schema_dialect")
            if compiled.problem:
                text = f"The schema of tool {tool_name(tool)!r} is not valid JSON Schema: {compiled.problem}"
                yield result.error(None, "bad_schema", text, f"{column}[{i}].parameters")
        for message, place in zip(read.messages, read.places, strict=True):
            for k, call in enumerate(message.tool_calls or () if message else ()):
                found = schemas.get(call.name)
                if found is None or not isinstance(call.arguments, Mapping):
                    continue
                at = place.calls[k]
                if found.names is not None and not found.names.issuperset(call.arguments):
                    result.notes.add("extra_arguments")
                try:
                    for kind, path, text in self._arguments.problems(call.arguments, found):
                        where = f"{read.column}[{at}].tool_calls[{k}].arguments{path}"
                        text = f"Call {k} of message {at}, to {call.name!r}: {text}"
                        yield result.error(at, kind, text, where)
                except Exception as error:  # $refs and patterns fail when they are first used, each in its own way
                    text = f"The schema of tool {call.name!r} cannot be used: {str(error)[:200]}"
                    yield result.error(None, "bad_schema", text, column)

    def _target_errors(self, result: RowResult, read: ReadRow) -> Iterator[RowError]:
        """Answers with nothing in them, and rows with none."""
        trained = False
        for message, place in zip(read.messages, read.places, strict=True):
            if message is None or (message.role == "assistant" and not message.masked):
                trained = True
            if message is None or message.role != "assistant" or message.masked or message.tool_calls:
                continue
            if not (
                message.text_content.strip() or message.contains_media or (message.reasoning_content or "").strip()
            ):
                at = place.message
                text = f"Assistant message {at} is to be trained, but holds no text, call or reasoning"
                yield result.error(at, "empty_target", text, f"{read.column}[{at}].content")
        if not trained and len(read.messages) > 1:
            text = "No message of the row is trained; expected an assistant message that is not masked (weight 0)"
            yield result.error(None, "no_target", text, read.column)
        last = read.messages[-1] if read.messages else None
        if trained and last is not None and last.role != "assistant":
            result.notes.add("ends_unanswered")

    def _ask_model(self, result: RowResult, read: ReadRow, messages: list[Message]) -> None:
        """Whether the model's format can write the row, and how long it is."""
        if self.model is None:
            return
        tools = read.tools or None
        start, faulty = 0, {error.message for error in result.errors}
        while True:
            kept = [*messages[:1], *messages[start:]] if start and messages[0].role == "system" else messages[start:]
            shift = start - (len(kept) - len(messages[start:]))
            try:
                size = self.model.measure(kept, tools)
                break
            except RecursionError:
                raise
            except Exception as error:  # a tool whose schema is none may break a format in any way
                if not isinstance(error, ValueError):
                    if not any(known.kind == "bad_schema" for known in result.errors):
                        text = f"The row cannot be written: {type(error).__name__}: {error}"
                        result.errors.append(result.error(None, "format_refuses", text, read.column))
                    return
                found = _INDEX.search(str(error))
                index = None if found is None else int(found[1] or found[2])
                at = 0 if index == 0 or index is None else min(index + shift, len(messages) - 1)
                row_index = None if index is None else read.places[at].message
                if row_index is None or row_index not in faulty:
                    text = str(error)
                    if found is not None and found.lastindex and row_index != index:
                        start_of, end_of = found.span(found.lastindex)
                        text = f"{text[:start_of]}{row_index}{text[end_of:]}"
                    where = read.column if row_index is None else f"{read.column}[{row_index}]"
                    result.errors.append(result.error(row_index, "format_refuses", text, where))
                # What stands from the next user message on is a conversation of its own: it may have other faults.
                later = [i for i, m in enumerate(messages) if i > max(at, start) and m.role == "user"]
                if index is None or at == 0 or not later:
                    return
                start = later[0]
        if start or size is None:
            return
        result.length, result.trained = size
        limit = self.options.max_seq_len
        if limit is not None and result.length > limit:
            text = f"The row has {result.length} tokens, more than max_seq_len={limit}"
            result.errors.append(result.error(None, "too_long", text, read.column))
        if result.trained == 0 and not any(error.kind in ("no_target", "empty_target") for error in result.errors):
            text = "No token of the row is trained; expected an answer of the assistant"
            result.errors.append(result.error(None, "no_target", text, read.column))

    def _count(self, result: RowResult, read: ReadRow) -> None:
        """What is counted of a row."""
        counts = result.counts
        counts["messages"] = len(read.messages)
        open_calls = 0
        for message in read.messages:
            if message is None:
                continue
            role = "tool" if message.role in TOOL_ROLES else message.role
            counts[role] += 1
            names = [call.name for call in message.tool_calls or ()]
            counts["calls"] += len(names)
            result.called += names
            if role == "user" and open_calls > 0:
                result.notes.add("unanswered")
            if role == "user" and not (message.contains_media or message.text_content.strip()):
                result.notes.add("empty_question")
            open_calls = 0 if role == "user" else open_calls + len(names) - (role == "tool")
        result.declared = [name for name in map(tool_name, read.tools or ()) if name is not None]


def _way_out(row: Mapping[str, Any]) -> str:
    """What a person may have meant by a row without a conversation."""
    if tool_name(row) is not None:
        return "It looks like a tool: a file of tools is given by tools (--tools), beside a file of rows"
    known = next((style for style, one in TOOL_SETS.items() if one.columns <= row.keys()), None)
    if known is not None:
        return f"It looks like a row of {TOOL_SETS[known].source}: style={known!r} (--style) reads these"
    if any(pair <= row.keys() for pair in _PROMPTED):
        return "It looks like a prompt and its answer: instruct_dataset reads these, and they need no check"
    return "Another name for it is given by conversation_column (--conversation-column)"


def _kind_of(message: Any, text: str) -> str:
    """The kind of an error that says why a message cannot be read."""
    if not isinstance(message, Mapping):
        return "bad_message"
    speaker = message.get("role") if message.get("role") is not None else message.get("from")
    if speaker in CALL_ROLES:
        return "bad_call"
    if not isinstance(speaker, str) or speaker not in ROLES:
        return "unknown_role"
    return "bad_call" if _CALL_WORDS.search(text) else "bad_message"


def _without_ids(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn without what only names its calls."""
    slim = {key: value for key, value in turn.items() if key != "tool_call_id"}
    if "tool_calls" in slim:
        slim["tool_calls"] = [(call["name"], call["arguments"]) for call in slim["tool_calls"]]
    return slim


def row_key(row: Mapping[str, Any], *reads: ReadRow) -> int | None:
    """The key of a row that was read: the same where its conversations say the same; None where it is nested too deep."""
    if any(error.kind == "nesting" for read in reads for error in read.errors):
        return None
    turns = [_without_ids(turn) for read in reads for turn in [*read.turns, {}] if turn is not None]
    whole = len(turns) > len(reads) and len(turns) == sum(len(read.turns) + 1 for read in reads)
    return _key([turns, reads[0].tools] if whole else row)


def _key(value: Any) -> int:
    """A number that equal values share."""
    text = json.dumps(value, sort_keys=True, default=str)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
