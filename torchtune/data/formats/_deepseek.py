"""DeepSeek V3.1: tokens with full-width bars; the template writes no tool definitions.

Source: the ``chat_template`` of the model's ``tokenizer_config.json``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torchtune.data._message import ToolCall

from ._base import ChatFormat, ParsedMessage
from ._hermes_style import result_text
from ._read import Draft, Source, call_from, read_named_json, read_section, read_thinking
from ._write import Chat, Turn, Writer, dumps

_BOS, _EOS, _USER, _ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _SEP, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_OUTPUT, _OUTPUT_END = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"
_NO_THOUGHT = "<think></think>"


class DeepSeekV3_1(ChatFormat):
    """DeepSeek V3.1 without thinking. Text beside calls stands before them; system texts are joined at the start."""

    name = "deepseek_v3_1"
    stop = (_EOS,)
    controls = (
        *(_BOS, _EOS, _USER, _ASSISTANT, "<think>", "</think>"),
        *(_CALLS, _CALLS_END, _CALL, _SEP, _CALL_END, _OUTPUT, _OUTPUT_END),
    )

    def write(self, w: Writer, chat: Chat) -> None:
        if chat.tools:
            self.warn_once(
                "the official template writes no tool definitions; put them into the system text if the model shall see them."
            )
        w.lit(_BOS)
        systems = [turn for turn in chat.turns if turn.role == "system"]
        for at, turn in enumerate(systems):
            w.turn(turn)
            w.lit("\n\n" * (at > 0))
            w.content(turn.pieces)
        previous = ""
        for turn in chat.turns:
            w.turn(turn)
            if turn.role == "user":
                w.lit(_USER, "header")
                w.content(turn.pieces)
            elif turn.role == "tool":
                w.lit(_OUTPUT, "header")
                w.text(result_text(turn), "result")
                w.lit(_OUTPUT_END, "header")
            elif turn.role == "assistant":
                if previous == "user":
                    w.lit(_ASSISTANT, "header")
                    w.lit(_NO_THOUGHT, "reasoning")
                w.sampled = True
                self._write_answer(w, turn, previous)
                w.end(_EOS)
            previous = turn.role if turn.role != "system" else previous

    def _write_answer(self, w: Writer, turn: Turn, previous: str) -> None:
        if turn.calls or previous == "tool" or "</think>" not in turn.text:
            w.content(turn.pieces)
        else:
            w.text(turn.text.split("</think>", 1)[1])
        if turn.calls:
            w.lit(_CALLS, "call")
            for call in turn.calls:
                w.weave("call", _CALL, call.name, _SEP, dumps(call.arguments), _CALL_END)
            w.lit(_CALLS_END, "call")

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        last = chat.turns[-1].role if chat.turns else ""
        if last == "user":
            w.lit(_ASSISTANT, "header")
            w.lit(_NO_THOUGHT, "reasoning")

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        start = read_thinking(source, draft, trim="")
        read_section(source, start, draft, (_CALLS, _CALL, _CALL_END, _CALLS_END), self._read_call)
        return draft.done(source)

    def _read_call(self, source: Source, at: int) -> tuple[ToolCall, int]:
        name, value, end = read_named_json(source, at, _SEP, "the function's name")
        return call_from({"name": name, "arguments": value}), end
