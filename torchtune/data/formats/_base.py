"""What every chat format is: a conversation written as segments, and read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchtune.data._message import Message, ToolCall

#: What a piece of a message is. Loss selectors choose by it; None is scaffolding.
Part = Literal["header", "content", "reasoning", "call", "result", "end"]


@dataclass(frozen=True)
class Segment:
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
    """Model output that was meant as a call and is none: the ``text`` as emitted, and the ``reason``."""

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
