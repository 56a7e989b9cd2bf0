"""Message, the message transforms and what goes with them, under the name of their old module."""

from torchtune.data._masking import MaskingStrategy, mask_messages
from torchtune.data._message import Message, Role, ToolCall
from torchtune.data._transforms import (
    AlpacaToMessages,
    ChosenRejectedToMessages,
    InputOutputToMessages,
    OpenAIToMessages,
    ShareGPTToMessages,
)
from torchtune.data._validate import validate_messages

__all__ = [
    "AlpacaToMessages",
    "ChosenRejectedToMessages",
    "InputOutputToMessages",
    "MaskingStrategy",
    "Message",
    "OpenAIToMessages",
    "Role",
    "ShareGPTToMessages",
    "ToolCall",
    "mask_messages",
    "validate_messages",
]
