"""Families that write a conversation as turns alone, without tools of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from ._base import ChatFormat, Option, ParsedMessage
from ._hermes_style import TOOL_CONVENTION
from ._read import Draft, Source, read_tagged_calls
from ._write import Chat, Turn, Writer


class PlainFormat(ChatFormat):
    """Turns of the form header, text, end token.

    A family gives :attr:`headers`, :attr:`end_token` and :attr:`after`. Tools can be lent by the option
    ``tool_convention="hermes"``; without it calls are refused, since the official template would drop them.
    """

    native_tools = False
    options: ClassVar[dict[str, Option]] = {"tool_convention": TOOL_CONVENTION}

    #: Role -> what stands before its text.
    headers: ClassVar[dict[str, str]] = {}
    #: Written at the very start.
    opening: str = ""
    #: The end token of each turn, and what stands behind it.
    end_token: str = ""
    after: str = ""
    #: True if the template trims each text.
    trims: bool = False

    def write(self, w: Writer, chat: Chat) -> None:
        w.lit(self.opening)
        if self.default_system and (not chat.turns or chat.turns[0].role != "system"):
            w.lit(f"{self.headers['system']}{self.default_system}{self.end_token}{self.after}")
        for turn in chat.turns:
            self.write_turn(w, turn)

    def write_turn(self, w: Writer, turn: Turn) -> None:
        """One turn: header, text, end."""
        if turn.role not in self.headers:
            raise self.refuse(turn, f"found the role {turn.role}", f"It has the roles {', '.join(self.headers)}.")
        w.turn(turn)
        w.lit(self.headers[turn.role], "header")
        w.sampled = turn.role == "assistant"
        w.content(turn.stripped() if self.trims else turn.pieces)
        w.end(self.end_token, self.after)

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        w.lit(self.headers["assistant"], "header")

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        if options.tool_convention == "hermes":
            read_tagged_calls(source, 0, draft)
        else:
            draft.texts.append(source.text)
        return draft.done(source)
