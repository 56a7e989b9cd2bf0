"""The ``ipython`` and ``eot`` flags of a conversation. Pure: needs only messages with roles.

The rule was agreed upstream (pytorch/torchtune issue 2405): a turn goes on, ``eot=False``, at a tool result and at an
assistant message directly followed by one; ``ipython=True`` marks an assistant message that is a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchtune.data._message import Message

_RESULT_ROLES = ("tool", "ipython")


def set_flags(messages: Sequence[Message]) -> None:
    """Set ``ipython`` and ``eot`` of each message by what stands beside it, in place.

    An assistant message is a call if it has ``tool_calls``, or, where calls are plain text, if a tool result directly
    follows it. ``eot`` is False for a tool result and for an assistant message directly followed by one, else True.

    Args:
        messages: a whole conversation, in order.
    """
    for i, message in enumerate(messages):
        is_result = message.role in _RESULT_ROLES
        before_result = message.role == "assistant" and i + 1 < len(messages) and messages[i + 1].role in _RESULT_ROLES
        message.ipython = before_result or bool(getattr(message, "tool_calls", None))
        message.eot = not (is_result or before_result)
