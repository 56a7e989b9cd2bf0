"""One message of a conversation. Pure: the standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import PIL.Image

Role = Literal["system", "user", "assistant", "ipython", "tool"]

#: Roles under which the result of a tool call comes back; the two mean the same.
TOOL_ROLES = ("tool", "ipython")

_FIELDS = ("role", "content", "masked", "ipython", "eot")
_TOOL_FIELDS = ("tool_calls", "tool_call_id", "name", "reasoning_content", "weight")


@dataclass
class ToolCall:
    """One call of a tool by the model.

    Args:
        name: name of the function.
        arguments: its arguments by name, as JSON values.
        id: what a result refers to it by, where the data has ids.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The call in OpenAI form, arguments as an object; ``id`` only where there is one."""
        call: dict[str, Any] = {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}
        return call if self.id is None else {"id": self.id, **call}


class Message:
    """One message of a conversation, the unit that formats and tokenizers work on.

    Args:
        role: ``system``, ``user``, ``assistant``, ``tool`` or ``ipython``; the last two mean the same.
        content: text, or a list of parts such as ``{"type": "text", "content": "hi"}``,
            ``{"type": "image", "content": <image>}`` and, for a tool result that is a JSON value and no text,
            ``{"type": "json", "content": {"ok": True}}``.
        masked: if True, no token of the message is trained.
        ipython: True for an assistant message that is a tool call.
        eot: False where the turn goes on: a tool result, or a call that a result follows.
        tool_calls: the calls an assistant message makes, in order.
        tool_call_id: in a tool result, the id of the call it answers.
        name: name of the speaker; in a tool result, of the function.
        reasoning_content: what the model thought before it answered.
        weight: factor on the loss of this message's tokens; None means 1, and 0 masks the message.

    Raises:
        ValueError: if a message other than the assistant's is marked as a tool call, or a tool call holds media.
    """

    def __init__(
        self,
        role: Role,
        content: str | list[dict[str, Any]],
        masked: bool = False,
        ipython: bool = False,
        eot: bool = True,
        *,
        tool_calls: list[ToolCall] | None = None,
        tool_call_id: str | None = None,
        name: str | None = None,
        reasoning_content: str | None = None,
        weight: float | None = None,
    ) -> None:
        self.role = role
        self.content: list[dict[str, Any]] = (
            [{"type": "text", "content": content}] if isinstance(content, str) else content
        )
        self.masked = masked or weight == 0
        self.ipython = ipython
        self.eot = eot
        self.tool_calls = tool_calls
        self.tool_call_id = tool_call_id
        self.name = name
        self.reasoning_content = reasoning_content
        self.weight = weight
        if self.role != "assistant" and (self.ipython or self.tool_calls):
            raise ValueError(
                f"Only assistant messages can be tool calls. Found role {self.role} in message: {self.text_content}"
            )
        if self.ipython and self.contains_media:
            raise ValueError(
                f"Media tokens in tool calls are not supported. Both are set in message: {self.text_content}"
            )

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Message:
        """A message from its fields by name; absent fields keep their defaults, unknown keys are ignored.

        Args:
            d: the fields; ``tool_calls`` as :class:`ToolCall` objects or as dicts in OpenAI form.

        Raises:
            ValueError: if ``role`` or ``content`` is missing, or a call cannot be read.
        """
        from torchtune.data._tool_calls import read_calls

        missing = [key for key in ("role", "content") if key not in d]
        if missing:
            raise ValueError(f"A message needs 'role' and 'content'. Missing: {missing}; found keys: {sorted(d)}")
        fields = {key: d[key] for key in (*_FIELDS, *_TOOL_FIELDS) if key in d}
        calls = fields.get("tool_calls")
        if calls and not all(isinstance(call, ToolCall) for call in calls):
            fields["tool_calls"] = [ToolCall(**call) for call in read_calls(calls, "the message")]
        return cls(**fields)

    def get_media(self) -> list[PIL.Image.Image]:
        """The images of the message, in order."""
        return [part["content"] for part in self.content if part["type"] == "image"]

    @property
    def contains_media(self) -> bool:
        """True if a part is an image."""
        return any(part["type"] == "image" for part in self.content)

    @property
    def text_content(self) -> str:
        """The text parts, joined without a separator; JSON values are written as JSON."""
        return "".join(map(_part_text, self.content))

    def __repr__(self) -> str:
        extra = "".join(f", {key}={value!r}" for key in _TOOL_FIELDS if (value := getattr(self, key)) is not None)
        return f"Message(role={self.role!r}, content={[part['content'] for part in self.content]!r}{extra})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        fields = (key for key in (*_FIELDS, *_TOOL_FIELDS) if key != "content")
        same = len(self.content) == len(other.content) and all(map(_same_part, self.content, other.content))
        return same and all(getattr(self, key) == getattr(other, key) for key in fields)

    # Equal by value and changeable, so no key of a dict or set.
    __hash__ = None  # type: ignore[assignment]


def _part_text(part: dict[str, Any]) -> str:
    """What a part adds to the text of its message."""
    if part["type"] == "json":
        return json.dumps(part["content"], ensure_ascii=False)
    return part["content"] if part["type"] == "text" else ""


def _same_part(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two parts are equal; media are compared by identity, since tensors have no plain ``==``."""
    return a["content"] is b["content"] if a["type"] == b["type"] == "image" else a == b
