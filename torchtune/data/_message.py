"""One message of a conversation. Pure: the standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import PIL.Image

Role = Literal["system", "user", "assistant", "ipython", "tool"]

#: Roles under which the result of a tool call comes back; the two mean the same.
TOOL_ROLES = ("tool", "ipython")


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
        content: text, or a list of parts such as ``{"type": "text", "content": "hi"}`` and
            ``{"type": "image", "content": <PIL image>}``.
        masked: if True, no token of the message is trained.
        ipython: True for an assistant message that is a tool call.
        eot: False where the turn goes on: a tool result, or a call that a result follows.
        tool_calls: the calls an assistant message makes, in order.
        tool_call_id: in a tool result, the id of the call it answers.
        name: name of the speaker; in a tool result, of the function.
        reasoning_content: what the model thought before it answered.
        weight: factor on the loss of this message's tokens; None means 1.

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
        self.content = [{"type": "text", "content": content}] if isinstance(content, str) else content
        self.masked = masked
        self.ipython = ipython
        self.eot = eot
        self.tool_calls = tool_calls
        self.tool_call_id = tool_call_id
        self.name = name
        self.reasoning_content = reasoning_content
        self.weight = weight
        self._check()

    def _check(self) -> None:
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
        """A message from its fields by name; absent fields keep their defaults.

        Raises:
            ValueError: if ``role`` or ``content`` is missing.
        """
        raise NotImplementedError

    def get_media(self) -> list[PIL.Image.Image]:
        """The images of the message, in order."""
        return [part["content"] for part in self.content if part["type"] == "image"]

    @property
    def contains_media(self) -> bool:
        """True if a part is an image."""
        return any(part["type"] == "image" for part in self.content)

    @property
    def text_content(self) -> str:
        """The text parts, joined without a separator."""
        return "".join(part["content"] for part in self.content if part["type"] == "text")
