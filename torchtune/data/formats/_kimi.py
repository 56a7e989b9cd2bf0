"""Kimi K2: calls in a section of their own, with ids that the format makes from the function's name.

Source: the ``chat_template`` of the model's ``tokenizer_config.json``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torchtune.data._message import ToolCall

from ._base import ChatFormat, ParsedMessage
from ._hermes_style import result_text
from ._read import Draft, Source, call_from, read_named_json, read_section
from ._write import Chat, Writer, dumps

_MIDDLE, _END = "<|im_middle|>", "<|im_end|>"
_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_HEADERS = {
    "system": f"<|im_system|>system{_MIDDLE}",
    "user": f"<|im_user|>user{_MIDDLE}",
    "assistant": f"<|im_assistant|>assistant{_MIDDLE}",
    "tool": f"<|im_system|>tool{_MIDDLE}",
}
#: The template writes a backslash and an n here, no line break.
_RETURN = "## Return of {}\\n"


class KimiK2(ChatFormat):
    """Kimi K2 Instruct."""

    name = "kimi_k2"
    stop = (_END, "[EOS]")
    controls = (
        *("<|im_system|>", "<|im_user|>", "<|im_assistant|>", _MIDDLE, _END, "[EOS]"),
        *(_SECTION, _SECTION_END, _CALL, _ARGUMENTS, _CALL_END),
    )
    default_system = "You are a helpful assistant"
    prompt = _HEADERS["assistant"]

    def write(self, w: Writer, chat: Chat) -> None:
        if chat.tools:
            w.weave(None, f"<|im_system|>tool_declare{_MIDDLE}", dumps(chat.tools), _END)
        if not chat.turns or chat.turns[0].role != "system":
            w.lit(f"{_HEADERS['system']}{self.default_system}{_END}")
        made: list[str] = []
        for turn in chat.turns:
            w.turn(turn)
            w.lit(_HEADERS[turn.role], "header")
            if turn.role == "tool":
                identity = turn.call_id or (made.pop(0) if made else None)
                if identity is None:
                    raise self.refuse(turn, "found a tool result without an id or a call", "Give it a tool_call_id.")
                w.text(_RETURN.format(identity), "header")
                w.text(result_text(turn, python=True), "result")
            else:
                w.sampled = turn.role == "assistant"
                w.content(turn.pieces)
                made = [f"functions.{call.name}:{at}" for at, call in enumerate(turn.calls)]
                self._write_calls(w, turn.calls, made)
            w.end(_END)

    def _write_calls(self, w: Writer, calls: list[ToolCall], ids: list[str]) -> None:
        if not calls:
            return
        w.lit(_SECTION, "call")
        for call, identity in zip(calls, ids, strict=True):
            w.weave("call", _CALL, identity, _ARGUMENTS, dumps(call.arguments), _CALL_END)
        w.lit(_SECTION_END, "call")

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        read_section(source, 0, draft, (_SECTION, _CALL, _CALL_END, _SECTION_END), self._read_call)
        return draft.done(source)

    def _read_call(self, source: Source, at: int) -> tuple[ToolCall, int]:
        identity, value, end = read_named_json(source, at, _ARGUMENTS, "the call's id")
        name = identity.removeprefix("functions.").rsplit(":", 1)[0]
        return call_from({"name": name, "arguments": value, "id": identity}), end
