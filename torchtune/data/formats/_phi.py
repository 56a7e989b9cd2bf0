"""Phi 3, 3.5, 4 and 4 Mini: plain turns, no tools.

Sources: the ``chat_template`` of each model's ``tokenizer_config.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ._plain import PlainFormat

if TYPE_CHECKING:
    from ._write import Chat, Writer


class Phi3(PlainFormat):
    """Phi 3 and 3.5: role tokens, and an end-of-text token behind a whole conversation."""

    name = "phi3"
    stop = ("<|end|>", "<|endoftext|>")
    controls = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
    headers: ClassVar[dict[str, str]] = {role: f"<|{role}|>\n" for role in ("system", "user", "assistant")}
    end_token, after = "<|end|>", "\n"

    def write(self, w: Writer, chat: Chat) -> None:
        super().write(w, chat)
        if not chat.generate:
            w.turn(None)
            w.lit("<|endoftext|>")


class Phi4Mini(Phi3):
    """Phi 4 Mini: as Phi 3, without newlines. Its template writes no calls, so tools are lent."""

    name = "phi4_mini"
    headers: ClassVar[dict[str, str]] = {role: header.rstrip() for role, header in Phi3.headers.items()}
    after = ""


class Phi4(PlainFormat):
    """Phi 4: ChatML with a separator token instead of the newline."""

    name = "phi4"
    stop = ("<|im_end|>", "<|endoftext|>")
    controls = ("<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|endoftext|>")
    headers: ClassVar[dict[str, str]] = {
        role: f"<|im_start|>{role}<|im_sep|>" for role in ("system", "user", "assistant")
    }
    end_token = "<|im_end|>"
