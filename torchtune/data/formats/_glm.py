"""GLM 4.5 and 4.6: calls with keys and values in tags, results under a role of their own, no end token.

Sources: the ``chat_template`` of the models' ``tokenizer_config.json``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from torchtune.data._message import ToolCall

from ._base import ChatFormat, Option, ParsedMessage
from ._hermes_style import result_text
from ._qwen import split_thought, write_thought
from ._read import BadCall, Draft, Source, read_tagged_calls, read_thinking
from ._write import Chat, Turn, Writer, dumps_schema
from ._xml_calls import argument_schemas, json_scalars, typed

_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_TOOLS_HEAD = (
    "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_TOOLS_FOOT = (
    "</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n"
    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
    "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"
)
_EMPTY = "\n<think></think>"


class Glm4_5(ChatFormat):
    """GLM 4.5 and 4.6. Each assistant turn opens with a thought, empty for those before the last user message.

    A turn has no end token: the role token of what follows stops the generation.
    """

    name = "glm4_5"
    stop = ("<|user|>", "<|observation|>", "<|endoftext|>")
    controls = (
        *(
            "[gMASK]",
            "<sop>",
            "<|system|>",
            "<|user|>",
            "<|assistant|>",
            "<|observation|>",
            "<|endoftext|>",
            "/nothink",
        ),
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
        *(_KEY, _KEY_END, _VALUE, _VALUE_END),
    )
    options: ClassVar[dict[str, Option]] = {
        "enable_thinking": Option(True, bool, "False asks for no thinking, in each user message and in the prompt.")
    }
    rewrites_history = True
    writes_reasoning = True
    check_calls = True

    def write(self, w: Writer, chat: Chat) -> None:
        w.lit("[gMASK]<sop>")
        if chat.tools:
            w.lit(_TOOLS_HEAD)
            for tool in chat.tools:
                w.text(dumps_schema(tool) + "\n", None)
            w.lit(_TOOLS_FOOT)
        for at, turn in enumerate(chat.turns):
            w.turn(turn)
            if turn.role == "assistant":
                w.lit("<|assistant|>", "header")
                w.sampled = True
                self._write_answer(w, chat, turn, at)
                w.sampled = False
            elif turn.role == "tool":
                first = at == 0 or chat.turns[at - 1].role != "tool"
                w.lit("<|observation|>" if first else "", "header")
                w.weave("result", "\n<tool_response>\n", result_text(turn), "\n</tool_response>")
            else:
                w.lit(f"<|{turn.role}|>\n", "header")
                w.content(turn.pieces)
                if turn.role == "user" and not chat.options.enable_thinking and not turn.text.endswith("/nothink"):
                    w.lit("/nothink")

    def _write_answer(self, w: Writer, chat: Chat, turn: Turn, at: int) -> None:
        reasoning, content = split_thought(turn)
        thought = reasoning.strip() if at > chat.last("user") else ""
        given = "" if chat.options.enable_thinking else _EMPTY
        write_thought(w, thought, given, "\n<think>", "</think>")
        content = content.strip()
        w.text(f"\n{content}" if content else "")
        for call in turn.calls:
            w.lit("\n<tool_call>", "call")
            w.text(f"{call.name}\n", "call")
            for key, value in call.arguments.items():
                w.weave("call", _KEY, key, f"{_KEY_END}\n{_VALUE}", json_scalars(value), f"{_VALUE_END}\n")
            w.lit("</tool_call>", "call")

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        w.lit("<|assistant|>", "header")
        w.lit("" if chat.options.enable_thinking else _EMPTY, "reasoning")

    def comparable(self, call: ToolCall) -> Any:
        return call.name, {key: json_scalars(value) for key, value in call.arguments.items()}

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        schemas = argument_schemas(tools)
        start = read_thinking(source, draft)
        start += source.rest(start, start + 1) == "\n"
        read_tagged_calls(source, start, draft, read_call=lambda src, at: _read_call(src, at, schemas))
        return draft.done(source)


def _read_call(source: Source, start: int, schemas: dict[str, dict[str, Any]]) -> tuple[ToolCall, int]:
    """Name, then keys and values in tags."""
    at, _ = source.first((_KEY, "</tool_call>"), start)
    name = source.rest(start, at if at >= 0 else None).strip()
    if at < 0:
        raise BadCall(f"the call of {name!r} is not closed, as in output that was cut off")
    if not name or "\n" in name:
        raise BadCall(f"expected a function's name, found {name[:30]!r}")
    schema = schemas.get(name, {})
    arguments: dict[str, Any] = {}
    while source.at(_KEY, at):
        key_end = source.find(_KEY_END, at)
        value = source.skip_space(key_end + len(_KEY_END))
        if key_end < 0 or not source.at(_VALUE, value):
            raise BadCall(f"an argument of {name!r} has no {_VALUE}")
        end = source.find(_VALUE_END, value)
        if end < 0:
            raise BadCall(f"an argument of {name!r} is not closed by {_VALUE_END}")
        key = source.rest(at + len(_KEY), key_end)
        arguments[key] = typed(source.rest(value + len(_VALUE), end), schema.get(key))
        at = source.skip_space(end + len(_VALUE_END))
    return ToolCall(name, arguments), at
