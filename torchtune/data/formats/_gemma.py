"""Gemma 1, 2 and 3: user and model alternate strictly, and there are no tools.

Sources: the ``chat_template`` of each model's ``tokenizer_config.json``.
"""

from __future__ import annotations

from typing import ClassVar

from ._plain import PlainFormat
from ._write import Chat, Piece, Writer


class Gemma2(PlainFormat):
    """Gemma 1 and 2: no system message."""

    name = "gemma2"
    stop = ("<end_of_turn>", "<eos>")
    controls: tuple[str, ...] = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
    headers: ClassVar[dict[str, str]] = {"user": "<start_of_turn>user\n", "assistant": "<start_of_turn>model\n"}
    opening, end_token, after, trims = "<bos>", "<end_of_turn>", "\n", True
    system_role = False

    def write(self, w: Writer, chat: Chat) -> None:
        if chat.turns and chat.turns[0].role == "system":
            raise self.refuse(
                chat.turns[0], "this family has no system message", "Put its text into the first user message."
            )
        self.check_alternation(chat)
        super().write(w, chat)

    def check_alternation(self, chat: Chat) -> None:
        """Holds that user and assistant take turns, the user first."""
        for at, turn in enumerate(chat.turns):
            expected = "assistant" if at % 2 else "user"
            if turn.role != expected:
                raise self.refuse(
                    turn,
                    f"found role {turn.role}, expected {expected}, since user and assistant must alternate",
                    "Merge messages of one role that follow each other.",
                )


class Gemma3(Gemma2):
    """Gemma 3: the system text stands before the first user text; images are ``<start_of_image>``."""

    name = "gemma3"
    controls = (*Gemma2.controls, "<start_of_image>")
    image_token = "<start_of_image>"
    trims = False  # the system text is written as it is, behind it each text is trimmed

    def write(self, w: Writer, chat: Chat) -> None:
        system, turns = chat.split_system()
        for turn in turns:
            turn.pieces = turn.stripped()
        if system is not None:
            if not turns:
                raise self.refuse(
                    system, "the system text stands in the first user message, and there is none", "Add one."
                )
            chat.turns = turns
            lead = [Piece(p.text, p.part, system.index, p.media) for p in system.pieces]
            turns[0].pieces[:0] = [*lead, Piece("\n\n", "content", system.index)]
        super().write(w, chat)
