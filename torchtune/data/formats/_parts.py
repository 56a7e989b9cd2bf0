"""What formats take and give: segments, parsed messages, options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torchtune.data._message import ToolCall

#: What a piece of a message is. Loss selectors choose by it; None is scaffolding.
Part = Literal["header", "content", "reasoning", "call", "result", "end"]


class Segment(NamedTuple):
    """A stretch of a rendered conversation.

    Args:
        text: the characters, as the official template writes them.
        special: True for one control token of the family, False for plain text, which never becomes a control token.
        message_index: index of the message it belongs to; None for scaffolding (a default system prompt, BOS).
        sampled: True for exactly what the model itself must emit, its end token included.
        part: what of the message it is.
        media: an image or other media that stands here instead of text.
    """

    text: str
    special: bool = False
    message_index: int | None = None
    sampled: bool = False
    part: Part | None = None
    media: Any = None


@dataclass
class UnparsedCall:
    """Model output that was meant as a call and is none.

    Args:
        text: the output, as emitted.
        reason: why it is no call.
    """

    text: str
    reason: str


@dataclass
class ParsedMessage:
    """An assistant turn, read back from model output. Nothing of the output is lost.

    Args:
        content: the text outside calls and reasoning.
        reasoning_content: the reasoning, or None where the output has none.
        tool_calls: the calls that parsed, in order.
        unparsed: the calls that did not, each with its reason.
        complete: True if the turn's end was seen.
    """

    content: str = ""
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    unparsed: list[UnparsedCall] = field(default_factory=list)
    complete: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The message in OpenAI form, argument values as an object; what could not be parsed under ``unparsed``."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or None}
        if self.reasoning_content is not None:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        if self.unparsed:
            message["unparsed"] = [{"text": call.text, "reason": call.reason} for call in self.unparsed]
        return message


@dataclass(frozen=True)
class Option:
    """An option of ``render``.

    None is always allowed where it is the default.

    Args:
        default: its value where none is given.
        allowed: a type, or a tuple of values.
        doc: what it does.
    """

    default: Any
    allowed: type | tuple[Any, ...]
    doc: str

    def accepts(self, value: Any) -> bool:
        """Whether the option may have this value.

        Args:
            value: any value.
        """
        if value is None:
            return self.default is None
        return isinstance(value, self.allowed) if isinstance(self.allowed, type) else value in self.allowed

    @property
    def expected(self) -> str:
        """The allowed values in words, for errors."""
        if isinstance(self.allowed, type):
            return self.allowed.__name__
        return "one of " + ", ".join(map(repr, self.allowed))
