"""The ``ipython`` and ``eot`` flags of a conversation. Pure: needs only messages with roles.

The rule was agreed upstream (pytorch/torchtune issue 2405): a turn goes on, ``eot=False``, at a tool result and at an
assistant message directly followed by one; ``ipython=True`` marks an assistant message that is a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchtune.data._messages import Message

_RESULT_ROLES = ("tool", "ipython")


def set_flags(messages: Sequence[Message]) -> None:
    """Set ``ipython`` and ``eot`` of each message of a whole conversation by what stands beside it, in place."""
    set_ipython(messages)
    set_eot(messages)


def set_ipython(messages: Sequence[Message]) -> None:
    """Set ``ipython`` of each message, in place: of an assistant message with ``tool_calls``, or directly before a result."""
    followed = False
    for message in reversed(messages):
        answered = followed and message.role == "assistant"
        message.ipython = answered or bool(getattr(message, "tool_calls", None))
        followed = message.role in _RESULT_ROLES


def set_eot(messages: Sequence[Message]) -> None:
    """Set ``eot`` of each message, in place: False for a tool result and for an assistant message directly followed by one."""
    followed = False
    for message in reversed(messages):
        is_result = message.role in _RESULT_ROLES
        message.eot = not (is_result or (followed and message.role == "assistant"))
        followed = is_result
