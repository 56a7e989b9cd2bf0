"""The chat format of Mistral's first instruct models as a prompt template."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torchtune.data._message import Message


class MistralChatTemplate:
    """Writes a conversation in Mistral's words: ``[INST] question [/INST] answer``. There is no system message."""

    template: ClassVar[dict[str, tuple[str, str] | None]] = {
        "system": None,
        "user": ("[INST] ", " [/INST] "),
        "assistant": ("", ""),
        "ipython": ("", ""),
    }

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """New messages with the words around them; a system message is a ValueError."""
        out = []
        for index, message in enumerate(messages):
            words = self.template["ipython" if message.role == "tool" else message.role]
            if words is None:
                raise ValueError(
                    f"System prompts are not supported in MistralChatTemplate: message {index} is one. Put its text into "
                    'the first user message, or use chat_format="official" with a model that has them.'
                )
            changed = copy.copy(message)
            before, after = ({"type": "text", "content": text} for text in words)
            changed.content = [before, *message.content, after]
            out.append(changed)
        return out
