"""Which messages of a conversation are trained. Pure: the standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchtune.data._messages import Message


class MaskingStrategy(Enum):
    """Which messages are trained: all but the system's, the assistant's, or the assistant's last one."""

    TRAIN_ON_ALL = "train_on_all"
    TRAIN_ON_ASSISTANT = "train_on_assistant"
    TRAIN_ON_LAST = "train_on_last"


def mask_messages(messages: Sequence[Message], masking_strategy: MaskingStrategy | str) -> None:
    """Set ``masked`` of each message by a strategy, in place; a message of weight 0 stays masked under each.

    Args:
        messages: a conversation.
        masking_strategy: ``train_on_all`` masks system messages only, ``train_on_assistant`` all but the assistant's,
            ``train_on_last`` all but the last one of the assistant.

    Raises:
        ValueError: if the strategy is not one of these.
    """
    strategy = MaskingStrategy(masking_strategy)
    on_all, on_last = strategy is MaskingStrategy.TRAIN_ON_ALL, strategy is MaskingStrategy.TRAIN_ON_LAST
    answered = False
    for message in reversed(messages):
        trained = message.role != "system" if on_all else message.role == "assistant" and not (on_last and answered)
        answered = answered or trained
        message.masked = not trained or getattr(message, "weight", None) == 0


def resolve_strategy(train_on_input: bool | None, masking_strategy: str | None) -> MaskingStrategy:
    """The strategy that the two options of a transform ask for; ``train_on_input`` wins where it is given."""
    if train_on_input is not None:
        return MaskingStrategy.TRAIN_ON_ALL if train_on_input else MaskingStrategy.TRAIN_ON_ASSISTANT
    return MaskingStrategy(masking_strategy)
