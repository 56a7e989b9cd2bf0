"""What every chat format is: a conversation written as segments, and read back."""

from __future__ import annotations

import copy
import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar

from torchtune.data._message import Message, ToolCall

from ._hermes_style import lend_tools, to_plain_turns
from ._parts import Option, ParsedMessage, Part, Segment, UnparsedCall
from ._read import Source
from ._schemas import schema_problem
from ._write import Chat, Turn, Writer, wrap_tools

_log = logging.getLogger(__name__)
#: How many of a format's own texts it remembers, for each message that they stand in.
_LITERALS = 4096


class ChatFormat(ABC):
    """How one model family writes a conversation down, and how its output is read back.

    A family subclasses this, gives the class values below, and writes :meth:`write`, :meth:`write_prompt` and
    :meth:`read`. What every family shares (options, attribution, checks, expansion) stands here.

    Args:
        name: the name it is registered under; the class's own by default.
        **options: options of ``render`` that this instance uses instead of the family's defaults.

    Raises:
        ValueError: if an option is unknown or its value is not allowed.
    """

    #: Name of the format.
    name: str = ""
    #: Strings that end a turn in generation.
    stop: tuple[str, ...] = ()
    #: Every control token the format writes or reads: single ids of the family's vocabulary.
    controls: tuple[str, ...] = ()
    #: Options of ``render`` by name.
    options: ClassVar[dict[str, Option]] = {}
    #: True if a later message changes how an earlier one is written; then train on :meth:`expand_turns`.
    rewrites_history: bool = False
    #: True if the official template writes tool calls and results.
    native_tools: bool = True
    #: True if the official template writes reasoning; where False, ``reasoning_content`` is left out of the text.
    writes_reasoning: bool = False
    #: True if the family has a system message.
    system_role: bool = True
    #: What stands before an assistant turn when the model is to go on, where that is always the same.
    prompt: str = ""
    #: The system text written where a conversation has none.
    default_system: str | None = None
    #: The control token that stands for an image, or None where the format is text only.
    image_token: str | None = None
    #: True where a call is written as raw text that could read back as something else; then each call is checked.
    check_calls: bool = False

    def __init__(self, name: str | None = None, **options: Any) -> None:
        self.name = name or self.name
        self._bound = options
        self._literals: dict[tuple[str, int | None, bool, Part | None], list[Segment]] = {}
        self._defaults = self._resolve({})

    def __repr__(self) -> str:
        bound = "".join(f", {key}={value!r}" for key, value in self._bound.items())
        return f"{type(self).__name__}({self.name!r}{bound})"

    @abstractmethod
    def write(self, w: Writer, chat: Chat) -> None:
        """Writes the whole conversation, without the generation prompt.

        Args:
            w: takes the segments.
            chat: the conversation: turns, tools and options.
        """

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        """Writes what stands before an assistant turn when the model is to go on.

        Args:
            w: takes the segments.
            chat: the conversation that was written before.
        """
        w.lit(self.prompt, "header")

    @abstractmethod
    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        """Reads an assistant turn from the text in ``source``.

        Args:
            source: the output, with a place in it.
            tools: the tools that were offered; none if that is unknown.
            options: those of ``render``.

        Returns:
            The message; what could not be read is among its ``unparsed`` calls.
        """

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | str | None = None,
        *,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> list[Segment]:
        """Writes a conversation as the family's official chat template does.

        Args:
            messages: the conversation.
            tools: function schemas, wrapped or bare, in a list or as its JSON; an empty list means none.
            add_generation_prompt: True to end in the prompt for an assistant turn.
            **options: options of the family, see :attr:`options`.

        Returns:
            Segments whose texts, joined, equal the official template's text byte for byte.

        Raises:
            ValueError: if an option is unknown, the family cannot express a message (its index and a way out are named), or
                a tool is no function schema where the format has to read it.
        """
        resolved = self._resolve(options) if options else self._defaults
        chat = Chat.of(messages, tools, resolved, add_generation_prompt, self)
        if not self.native_tools:
            self._without_tools(chat)
        if not self.writes_reasoning and any(turn.reasoning for turn in chat.turns):
            self.warn_once(
                "the official template of this family writes no reasoning, so reasoning_content is left out."
            )
        writer = Writer(self)
        try:
            self.write(writer, chat)
        except (AttributeError, KeyError, TypeError) as error:
            if (problem := schema_problem(chat.tools)) is None:
                raise
            raise ValueError(f"Format {self.name}: {problem}. Mend the schema of this tool.") from error
        if self.check_calls:
            self._check_calls(chat, writer.segments, tools)
        writer.turn(None)
        if add_generation_prompt:
            self.write_prompt(writer, chat)
        return writer.segments

    def parse(
        self,
        output: str | Sequence[Segment],
        tools: Sequence[Mapping[str, Any]] | str | None = None,
        **options: Any,
    ) -> ParsedMessage:
        """Reads an assistant turn back from model output. Never raises on the output.

        Args:
            output: decoded text, or segments. In segments only those marked special count as control tokens, so that
                nothing else can be mistaken for one; where some are sampled (as ``render`` gives them), only those are read.
            tools: function schemas; formats that write argument values as raw text take their types from them.
            **options: options of the family, see :attr:`options`.

        Returns:
            The turn. What follows the first end token belongs to no turn and is left out.

        Raises:
            ValueError: if an option is unknown.
        """
        resolved = self._resolve(options)
        source = Source.of(output, self)
        try:
            return self.read(source, wrap_tools(tools, self.name), resolved)
        except (ValueError, RecursionError, IndexError, KeyError, TypeError, AttributeError) as error:
            reason = f"the reader of format {self.name} failed: {type(error).__name__}: {error}"
            return ParsedMessage(unparsed=[UnparsedCall(source.text, reason)], complete=source.complete)

    def expand_turns(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | str | None = None
    ) -> list[dict[str, Any]]:
        """Splits a conversation so that each trained turn is seen exactly as serving will send it.

        Where the format rewrites history (reasoning of earlier turns is dropped, say), an assistant turn in the middle of
        a conversation is not written as it was when it was sampled. This makes one sample per trained assistant turn,
        which ends with that turn and has the earlier ones masked. Other formats give the conversation as it is.

        Args:
            messages: the conversation.
            tools: its tools, handed on as they are.

        Returns:
            Samples ``{"messages": ..., "tools": ...}``; ``tools`` only where given.
        """
        rest = {} if tools is None else {"tools": tools}
        if not self.rewrites_history:
            return [{"messages": list(messages), **rest}]
        samples = []
        for index, message in enumerate(messages):
            if message.role != "assistant" or message.masked or message.weight == 0:
                continue
            history = [_masked(earlier) for earlier in messages[:index]]
            samples.append({"messages": [*history, message], **rest})
        return samples

    def render_turn(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | str | None = None,
        **options: Any,
    ) -> list[Segment]:
        """Writes a conversation's last turn behind the prompt that serving sends for it.

        The same as :meth:`render` in most families. Some templates write a prompt in another way than the same messages
        with an answer behind them (a line break less, thoughts that the answer drops); then this is what serving sends.

        Args:
            messages: the conversation, which ends in an assistant message.
            tools: function schemas, as for :meth:`render`.
            **options: options of the family.

        Returns:
            The segments of the prompt, then the sampled ones of the turn.

        Raises:
            ValueError: if the last message is not the assistant's, or as :meth:`render` does.
        """
        if not messages or messages[-1].role != "assistant":
            raise ValueError(
                f"Format {self.name}: a turn to render ends in an assistant message, found none at the end."
            )
        prompt = self.render(messages[:-1], tools, add_generation_prompt=True, **options)
        last = len(messages) - 1
        turn = [s for s in self.render(messages, tools, **options) if s.message_index == last and s.sampled]
        given = "".join(s.text for s in prompt if s.part == "reasoning" and s.message_index is None)
        return [*prompt, *_without_given(turn, given)]

    def refuse(self, turn: Turn | None, found: str, remedy: str) -> ValueError:
        """The error for a message that the family cannot express.

        Args:
            turn: the message; None for the whole conversation.
            found: what stands in the way.
            remedy: what to do about it.
        """
        where = "" if turn is None else f", message {turn.index} ({turn.role})"
        return ValueError(f"Format {self.name}{where}: {found}. {remedy}")

    @cached_property
    def pattern(self) -> Any:
        """A compiled pattern that splits text at the control tokens, longest first."""
        return re.compile("(" + "|".join(map(re.escape, sorted(self.controls, key=len, reverse=True))) + ")")

    def literal(self, text: str, index: int | None, sampled: bool, part: Part | None) -> list[Segment]:
        """The format's own text as segments, split at its control tokens; such texts repeat, so they are remembered.

        Args:
            text: the text.
            index: the message it is of.
            sampled: whether the model emits it.
            part: what of the message it is.

        Returns:
            The segments, of which control tokens are each one.
        """
        key = (text, index, sampled, part)
        found = self._literals.get(key)
        if found is None:
            pieces = enumerate(self.pattern.split(text))
            found = [Segment(piece, at % 2 == 1, index, sampled, part) for at, piece in pieces if piece]
            if len(self._literals) < _LITERALS:
                self._literals[key] = found
        return found

    def _resolve(self, given: dict[str, Any]) -> SimpleNamespace:
        known = self.options
        merged = {**self._bound, **given}
        for key, value in merged.items():
            if key not in known:
                names = ", ".join(sorted(known)) or "none"
                raise ValueError(f"Format {self.name} has no option {key!r}. Its options: {names}.")
            if not known[key].accepts(value):
                raise ValueError(f"Format {self.name}, option {key}: found {value!r}, expected {known[key].expected}.")
        return SimpleNamespace(**{key: merged.get(key, option.default) for key, option in known.items()})

    def _without_tools(self, chat: Chat) -> None:
        """Turns tools into plain turns by the convention chosen, or refuses calls and results."""
        if getattr(chat.options, "tool_convention", None) == "hermes":
            to_plain_turns(chat, self)
            return
        for turn in chat.turns:
            if turn.calls or turn.role == "tool":
                found = f"a call of {turn.calls[0].name!r}" if turn.calls else "a tool result"
                raise self.refuse(
                    turn,
                    f"found {found}, but the official template of this family writes no tool calls",
                    'Pass the option tool_convention="hermes" to write tools as <tool_call> text, '
                    "or choose a format with native tools.",
                )
        if chat.tools:
            self.warn_once(
                "the official template of this family writes no tools, so those of a sample without calls are left out of "
                'its text. The option tool_convention="hermes" writes them.'
            )

    def served_template(self, template: str) -> str:
        """The chat template that a model trained in this format is served with.

        Args:
            template: the chat template of the model that is trained, in Jinja.

        Returns:
            The same, or under ``tool_convention="hermes"`` one that writes tools, calls and results as this format does.
        """
        lent = getattr(self._resolve({}), "tool_convention", None) == "hermes"
        return lend_tools(template, self) if lent else template

    def warn_once(self, text: str) -> None:
        """Logs a warning the first time that this format gives it.

        Args:
            text: the warning.
        """
        if (self.name, text) not in _warned:
            _warned.add((self.name, text))
            _log.warning("Format %s: %s", self.name, text)

    def comparable(self, call: ToolCall) -> Any:
        """A call as far as the format's syntax tells it from others.

        Args:
            call: the call.

        Returns:
            A value that is equal for calls that read the same.
        """
        return call.name, json.dumps(call.arguments, sort_keys=True)

    def is_bare(self, turn: Turn, mine: Sequence[Segment]) -> bool:
        """Whether a look shows that a turn's calls, written as these segments, read back; else the reader is asked.

        Args:
            turn: the turn.
            mine: its segments.
        """
        return False

    def _check_calls(self, chat: Chat, segments: list[Segment], tools: Any) -> None:
        """Holds that every call reads back as itself."""
        for turn in chat.turns:
            if not turn.calls:
                continue
            mine = [s for s in segments if s.sampled and s.message_index == turn.index]
            if self.is_bare(turn, mine):
                continue
            read = self.parse(mine, tools)
            if [self.comparable(call) for call in read.tool_calls] != [self.comparable(call) for call in turn.calls]:
                why = f" ({read.unparsed[0].reason})" if read.unparsed else ""
                raise self.refuse(
                    turn,
                    f"the call {turn.calls[0].name!r} holds text that this family's syntax cannot carry: written down, "
                    f"it would read back as something else{why}",
                    "Change the argument, or choose a format that writes calls as JSON.",
                )


#: What closes a thought in the families that think.
_CLOSINGS = ("</think>", "[/THINK]", "<channel|>")
#: The warnings given, each with the name of its format.
_warned: set[tuple[str, str]] = set()


def _without_given(turn: list[Segment], given: str) -> list[Segment]:
    """A turn without the opening of a thought that the prompt has written already, or the thought if it is closed there."""
    thought = [s for s in turn if s.part == "reasoning"]
    if not given or not thought or not thought[0].special:
        return turn
    if given.rstrip().endswith(_CLOSINGS):
        return [s for s in turn if s.part != "reasoning"]
    return turn[1:]


def _masked(message: Message) -> Message:
    if message.role != "assistant":
        return message
    other = copy.copy(message)
    other.masked = True
    return other
