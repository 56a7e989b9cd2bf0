"""The chat format of Llama 2 as a prompt template."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torchtune.data._message import Message


class Llama2ChatTemplate:
    """Writes a conversation in Llama 2's words: ``[INST] <<SYS>>...<</SYS>> question [/INST] answer``.

    The system prompt stands in every user turn, as torchtune has it; Meta's own code writes it into the first one only.
    """

    template: ClassVar[dict[str, tuple[str, str]]] = {
        "system": ("<<SYS>>\n", "\n<</SYS>>\n\n"),
        "user": ("[INST] ", " [/INST] "),
        "assistant": ("", ""),
        "ipython": ("", ""),
    }

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """New messages with the words around them, without the system message. ``inference`` makes no difference."""
        import copy

        system: list[dict] = []
        out = []
        for message in messages:
            before, after = self.template["ipython" if message.role == "tool" else message.role]
            if message.role == "system":
                system = [_text(before), *message.content, _text(after)]
                continue
            changed = copy.copy(message)
            if message.role == "user":
                changed.content = [_text(before), *system, *message.content, _text(after)]
            out.append(changed)
        return out


def _text(content: str) -> dict[str, str]:
    return {"type": "text", "content": content}
