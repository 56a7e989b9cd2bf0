"""Phi 3, 3.5 and 4: plain turns, no tools. Phi 4 Mini: tools in control tokens of its own.

Sources: the ``chat_template`` of each model's ``tokenizer_config.json``; for Phi 4 Mini's tools, its model card.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from ._base import Option, ParsedMessage
from ._hermes_style import result_text, to_plain_turns
from ._plain import PlainFormat
from ._read import Draft, Source, read_call_list
from ._write import Chat, Turn, Writer, dumps

_CALL, _CALL_END, _RESPONSE = "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>"
#: What the model card writes before the tools, for conversations that have no system message.
_SYSTEM_WITH_TOOLS = "You are a helpful assistant with some tools."


class Phi3(PlainFormat):
    """Phi 3 and 3.5: role tokens, and an end-of-text token behind a whole conversation."""

    name = "phi3"
    stop = ("<|end|>", "<|endoftext|>")
    controls: tuple[str, ...] = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
    headers: ClassVar[dict[str, str]] = {role: f"<|{role}|>\n" for role in ("system", "user", "assistant")}
    end_token, after = "<|end|>", "\n"

    def write(self, w: Writer, chat: Chat) -> None:
        super().write(w, chat)
        if not chat.generate:
            w.turn(None)
            w.lit("<|endoftext|>")


class Phi4Mini(Phi3):
    """Phi 4 Mini: as Phi 3, without newlines; tools in the system message, calls and results in control tokens."""

    name = "phi4_mini"
    native_tools = True
    controls = (*Phi3.controls, "<|tool|>", "<|/tool|>", _CALL, _CALL_END, _RESPONSE)
    headers: ClassVar[dict[str, str]] = {role: header.rstrip() for role, header in Phi3.headers.items()}
    after = ""
    options: ClassVar[dict[str, Option]] = {
        "tool_convention": Option(
            "native", ("native", "hermes"), 'How to write tools: "native" tokens, or as <tool_call> text ("hermes").'
        )
    }

    def write(self, w: Writer, chat: Chat) -> None:
        if chat.options.tool_convention == "hermes":
            to_plain_turns(chat, self)
        elif chat.tools:
            system, chat.turns = chat.split_system()
            w.turn(system)
            w.lit(self.headers["system"], "header")
            if system is None:
                w.lit(_SYSTEM_WITH_TOOLS)
            else:
                w.content(system.pieces)
            w.weave(None, "<|tool|>", dumps(chat.functions), "<|/tool|>")
            w.end(self.end_token)
        super().write(w, chat)

    def write_turn(self, w: Writer, turn: Turn) -> None:
        if turn.role != "tool" and not turn.calls:
            super().write_turn(w, turn)
            return
        w.turn(turn)
        if turn.role == "tool":
            w.lit(_RESPONSE, "header")
            w.text(result_text(turn), "result")
        else:
            w.lit(self.headers["assistant"], "header")
            w.sampled = True
            w.content(turn.pieces)
            w.weave(
                "call",
                _CALL,
                dumps([{"name": call.name, "arguments": call.arguments} for call in turn.calls]),
                _CALL_END,
            )
        w.end(self.end_token)

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        if options.tool_convention == "hermes":
            return super().read(source, tools, options)
        draft, end = Draft(), 0
        while (at := source.find(_CALL, end)) >= 0:
            draft.texts.append(source.rest(end, at))
            end = source.skip_space(read_call_list(source, at, _CALL, draft))
            end += len(_CALL_END) * source.at(_CALL_END, end)
        draft.texts.append(source.rest(end))
        return draft.done(source)


class Phi4(PlainFormat):
    """Phi 4: ChatML with a separator token instead of the newline."""

    name = "phi4"
    stop = ("<|im_end|>", "<|endoftext|>")
    controls = ("<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|endoftext|>")
    headers: ClassVar[dict[str, str]] = {
        role: f"<|im_start|>{role}<|im_sep|>" for role in ("system", "user", "assistant")
    }
    end_token = "<|im_end|>"
