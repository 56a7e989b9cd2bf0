"""A conversation: messages, transforms from rows of data sets, validation, masking, prompt templates, collation.

All but collation works without torch; collation is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torchtune.data._check_template import check_template
from torchtune.data._common import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._masking import MaskingStrategy, mask_messages
from torchtune.data._message import Message, Role, ToolCall
from torchtune.data._prompt_templates import (
    ChatMLTemplate,
    GrammarErrorCorrectionTemplate,
    PromptTemplate,
    PromptTemplateInterface,
    QuestionAnswerTemplate,
    SummarizeTemplate,
)
from torchtune.data._transforms import (
    AlpacaToMessages,
    ChosenRejectedToMessages,
    InputOutputToMessages,
    OpenAIToMessages,
    ShareGPTToMessages,
)
from torchtune.data._utils import format_content_with_images, load_image, truncate
from torchtune.data._validate import validate_messages
from torchtune.data.checks import check_rows

if TYPE_CHECKING:
    from torchtune.data._collate import (
        left_pad_sequence,
        padded_collate,
        padded_collate_dpo,
        padded_collate_packed,
        padded_collate_sft,
        padded_collate_tiled_images_and_mask,
    )

__all__ = [
    "CROSS_ENTROPY_IGNORE_IDX",
    "AlpacaToMessages",
    "ChatMLTemplate",
    "ChosenRejectedToMessages",
    "GrammarErrorCorrectionTemplate",
    "InputOutputToMessages",
    "MaskingStrategy",
    "Message",
    "OpenAIToMessages",
    "PromptTemplate",
    "PromptTemplateInterface",
    "QuestionAnswerTemplate",
    "Role",
    "ShareGPTToMessages",
    "SummarizeTemplate",
    "ToolCall",
    "check_rows",
    "check_template",
    "format_content_with_images",
    "left_pad_sequence",
    "load_image",
    "mask_messages",
    "padded_collate",
    "padded_collate_dpo",
    "padded_collate_packed",
    "padded_collate_sft",
    "padded_collate_tiled_images_and_mask",
    "truncate",
    "validate_messages",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("torchtune.data._collate"), name)
    if name == "formats":
        return importlib.import_module("torchtune.data.formats")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "formats"})
