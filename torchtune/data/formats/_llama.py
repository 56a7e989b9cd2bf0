"""The Llama families: 3, 3.1, 3.2, 3.3, 4, and the JSON encoding of Meta's own library.

Sources: the ``chat_template`` of each model's ``tokenizer_config.json``; for ``llama3_meta``, the output of Meta's
llama-models package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

from torchtune.data._message import ToolCall

from ._base import ChatFormat, Option, ParsedMessage, Segment, UnparsedCall
from ._hermes_style import call_json, result_text
from ._plain import PlainFormat
from ._read import BadCall, Draft, Source, call_from, decode_json
from ._write import NO_VALUE, Chat, Turn, Writer, dumps, dumps_schema

_START, _END = "<|start_header_id|>", "<|end_header_id|>"
_CONTROLS = ("<|begin_of_text|>", "<|end_of_text|>", _START, _END, "<|eot_id|>", "<|eom_id|>", "<|python_tag|>")

_RESPOND = (
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)
_IN_USER = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n" + _RESPOND
)
_IN_SYSTEM = (
    "You have access to the following functions. To call a function, please respond with JSON for a function call."
    + _RESPOND
)
#: Where a JSON call may begin in the output.
_CALL_START = re.compile(r'\{\s*"(?:type"\s*:\s*"function"\s*,\s*"name|name)"\s*:')
_BUILTIN = re.compile(r"\s*(\w+)\.call\((.*)\)\s*\Z", re.DOTALL)
#: Meta's encoder writes these without a tag before them.
_PLAIN_BUILTIN = re.compile(r"\s*(brave_search|wolfram_alpha)\.call\(")
_BUILTIN_ARGUMENT = re.compile(r'(\w+)="')


def _builtin(chat: Chat) -> list[str] | None:
    """The names of the built-in tools that are on; None where there are none in the family."""
    return getattr(chat.options, "builtin_tools", None)


class Llama2(PlainFormat):
    """Llama 2: ``[INST]`` in plain text, the system text inside the first user message, turns that alternate strictly."""

    name = "llama2"
    stop = ("</s>",)
    controls = ("<s>", "</s>")

    def write(self, w: Writer, chat: Chat) -> None:
        system, turns = chat.split_system()
        if system is not None and not turns:
            raise self.refuse(system, "the system text stands in the first user message, and there is none", "Add one.")
        for at, turn in enumerate(turns):
            if turn.role != ("assistant" if at % 2 else "user"):
                raise self.refuse(
                    turn, f"found role {turn.role} out of turn", "User and assistant must alternate, the user first."
                )
            w.turn(turn)
            if turn.role == "assistant":
                w.sampled = True
                w.lit(" ", "content")
                w.content(turn.stripped())
                w.lit(" ", "content")
                w.end("</s>")
                continue
            w.lit("<s>[INST] ", "header")
            if at == 0 and system is not None:
                w.turn(system)
                w.lit("<<SYS>>\n", "header")
                w.content(system.pieces)
                w.lit("\n<</SYS>>\n\n", "header")
                w.turn(turn)
            w.content(turn.stripped())
            w.lit(" [/INST]", "header")

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        """Nothing: the answer follows what the user said."""


class Llama3(PlainFormat):
    """Llama 3: plain turns, each text trimmed, no tools."""

    name = "llama3"
    stop = ("<|eot_id|>", "<|end_of_text|>")
    controls = _CONTROLS
    headers: ClassVar[dict[str, str]] = {role: f"{_START}{role}{_END}\n\n" for role in ("system", "user", "assistant")}
    opening, end_token, trims = "<|begin_of_text|>", "<|eot_id|>", True


class Llama3_1(ChatFormat):
    """Llama 3.1 and 3.3: a JSON call is the whole turn; built-in tools are called behind ``<|python_tag|>``.

    The official template drops text beside a call; here it stands before the call, as in Meta's own encoder. It refuses
    two calls in one message, and so does this.
    """

    name = "llama3_1"
    stop: tuple[str, ...] = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
    controls: tuple[str, ...] = _CONTROLS
    options: ClassVar[dict[str, Option]] = {
        "date_string": Option("26 Jul 2024", str, "Today's date, as the system block writes it."),
        "tools_in_user_message": Option(True, bool, "False puts the tools into the system block."),
        "builtin_tools": Option(None, list, "Names of built-in tools, such as brave_search and code_interpreter."),
        "end_of_call": Option(
            "eot", ("eot", "eom"), '"eom" ends a call that a result follows in <|eom_id|>, as Meta\'s own encoder can.'
        ),
    }
    check_calls = True
    #: Header tokens, end token and first token of the family.
    tokens: tuple[str, str, str, str] = (_START, _END, "<|eot_id|>", "<|begin_of_text|>")

    def header(self, role: str) -> str:
        """What stands before a turn's text."""
        return f"{self.tokens[0]}{role}{self.tokens[1]}\n\n"

    def write(self, w: Writer, chat: Chat) -> None:
        system, turns = chat.split_system()
        tools_in_user = bool(chat.tools) and getattr(chat.options, "tools_in_user_message", False)
        w.lit(self.tokens[3])
        self.write_system(w, chat, system)
        for at, turn in enumerate(turns):
            w.turn(turn)
            followed = at + 1 < len(turns) and turns[at + 1].role == "tool"
            if at == 0 and tools_in_user:
                self.write_first_user(w, chat, turn)
            elif turn.role == "tool":
                self.write_result(w, turn)
            elif turn.calls:
                w.lit(self.header("assistant"), "header")
                w.sampled = True
                self.write_calls(w, chat, turn)
                w.end(self.end_of(chat, turn, followed))
            else:
                w.lit(self.header(turn.role), "header")
                w.sampled = turn.role == "assistant"
                self.write_text(w, turn)
                w.end(self.tokens[2])
        if tools_in_user and not turns:
            raise self.no_user(None, "no message after the system message")

    def write_system(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        """The system block, which always stands: environment, dates, tools, text."""
        builtin = _builtin(chat)
        w.turn(system)
        w.lit(self.header("system"), "header" if system else None)
        if chat.tools or builtin is not None:
            w.lit("Environment: ipython\n")
        if builtin is not None:
            w.lit(f"Tools: {', '.join(tool for tool in builtin if tool != 'code_interpreter')}\n\n")
        w.lit(f"Cutting Knowledge Date: December 2023\nToday Date: {chat.options.date_string}\n\n")
        self.write_system_tools(w, chat)
        if system is not None:
            w.content(system.stripped())
        w.lit(self.tokens[2], "end" if system else None)

    def write_system_tools(self, w: Writer, chat: Chat) -> None:
        """The tools, where they stand in the system block."""
        if chat.tools and not chat.options.tools_in_user_message:
            w.lit(_IN_SYSTEM)
            for tool in chat.tools:
                w.text(dumps_schema(tool, 4) + "\n\n", None)

    def write_first_user(self, w: Writer, chat: Chat, turn: Turn) -> None:
        """The first user message, with the tools before its text."""
        if turn.role != "user":
            raise self.no_user(turn, f"the tools stand in the first user message, found a message of role {turn.role}")
        w.lit(self.header("user"), "header")
        w.lit(_IN_USER)
        for tool in chat.tools:
            w.text(dumps_schema(tool, 4) + "\n\n", None)
        w.content(turn.stripped())
        w.end(self.tokens[2])

    def no_user(self, turn: Turn | None, found: str) -> ValueError:
        return self.refuse(turn, found, "Start with a user message, or pass tools_in_user_message=False.")

    def write_text(self, w: Writer, turn: Turn) -> None:
        """The text of a turn without calls."""
        w.content(turn.stripped())

    def write_calls(self, w: Writer, chat: Chat, turn: Turn) -> None:
        """The one call of a turn, and text before it where there is any."""
        if len(turn.calls) > 1:
            raise self.refuse(
                turn,
                f"found {len(turn.calls)} calls in one message, but the official template takes one",
                "Make them one call a message, or use the format llama3_meta, which writes parallel calls.",
            )
        call = turn.calls[0]
        w.content(turn.stripped())
        if call.name in (_builtin(chat) or ()):
            w.lit("<|python_tag|>", "call")
            w.text(self.builtin_call(turn, call), "call")
        else:
            w.text(call_json(call.name, call.arguments, "parameters"), "call")

    def builtin_call(self, turn: Turn, call: ToolCall) -> str:
        """``name.call(key="value")``, in which values are not escaped."""
        wrong = next((key for key, value in call.arguments.items() if not isinstance(value, str)), None)
        if wrong is not None:
            raise self.refuse(
                turn, f"the argument {wrong!r} of built-in tool {call.name!r} is no text", "Pass it as a string."
            )
        inside = ", ".join(f'{key}="{value}"' for key, value in call.arguments.items())
        return f"{call.name}.call({inside})"

    def end_of(self, chat: Chat, turn: Turn, followed: bool) -> str:
        """The end token of a call: end of message where built-in tools are on, or where asked for."""
        if _builtin(chat) is not None or (chat.options.end_of_call == "eom" and followed):
            return "<|eom_id|>"
        return self.tokens[2]

    def write_result(self, w: Writer, turn: Turn) -> None:
        """A tool result: text as a JSON string, an object or a list as JSON."""
        w.lit(self.header("ipython"), "header")
        if turn.value is NO_VALUE:
            w.text(dumps(turn.text), "result")
        else:
            w.text(dumps(turn.value) if isinstance(turn.value, (dict, list, str)) else str(turn.value), "result")
        w.end(self.tokens[2])

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        w.lit(self.header("assistant"), "header")

    def is_bare(self, turn: Turn, mine: Sequence[Segment]) -> bool:
        """True if all that the model emits is one JSON call that holds what was given."""
        if len(turn.calls) != 1 or len(mine) != 2 or mine[0].special or mine[1].text not in self.stop:
            return False
        try:
            value, end = decode_json(mine[0].text, 0)
        except BadCall:
            return False
        call = turn.calls[0]
        return end == len(mine[0].text) and value == {"name": call.name, "parameters": call.arguments}

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        tag = source.find("<|python_tag|>")
        if tag >= 0:
            draft.texts.append(source.rest(0, tag))
            read_python_call(source.rest(tag + len("<|python_tag|>")), draft)
        elif _PLAIN_BUILTIN.match(source.text):
            read_python_call(source.text, draft)
        else:
            read_bare_json_calls(source.text, draft)
        return draft.done(source)


class Llama3_2(Llama3_1):
    """Llama 3.2: as 3.1, without built-in tools."""

    name = "llama3_2"
    options: ClassVar[dict[str, Option]] = {
        key: option for key, option in Llama3_1.options.items() if key != "builtin_tools"
    }
    image_token = "<|image|>"
    controls: tuple[str, ...] = (*_CONTROLS, "<|image|>")


class Llama4(Llama3_2):
    """Llama 4: text and calls in one turn, any number of calls, and a system block only if there is a system message."""

    name = "llama4"
    stop = ("<|eot|>", "<|eom|>", "<|end_of_text|>")
    tokens = ("<|header_start|>", "<|header_end|>", "<|eot|>", "<|begin_of_text|>")
    controls = (*tokens, "<|eom|>", "<|end_of_text|>", "<|python_start|>", "<|python_end|>", "<|image|>")
    options: ClassVar[dict[str, Option]] = {k: o for k, o in Llama3_2.options.items() if k != "end_of_call"}

    def write_system(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        if system is None:
            if chat.tools and not chat.options.tools_in_user_message:
                raise self.no_user(None, "tools go into the system block, and there is no system message")
            return
        w.turn(system)
        w.lit(self.header("system"), "header")
        w.lit("Environment: ipython\n" if chat.tools else "")
        self.write_system_tools(w, chat)
        w.content(system.stripped())
        w.lit(self.tokens[2], "end")

    def write_text(self, w: Writer, turn: Turn) -> None:
        w.content(turn.pieces)

    def write_calls(self, w: Writer, chat: Chat, turn: Turn) -> None:
        w.lit("<|python_start|>", "call")
        w.content(turn.pieces)
        w.lit("<|python_end|>", "call")
        for call in turn.calls:
            w.text(call_json(call.name, call.arguments, "parameters"), "call")

    def end_of(self, chat: Chat, turn: Turn, followed: bool) -> str:
        return self.tokens[2]

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        opened, closed = source.find("<|python_start|>"), source.find("<|python_end|>")
        if 0 <= opened < closed:
            draft.texts.append(source.rest(0, opened) + source.rest(opened + len("<|python_start|>"), closed))
            read_bare_json_calls(source.rest(closed + len("<|python_end|>")), draft)
        else:
            start = max(opened, closed)
            tag = "<|python_start|>" if start == opened else "<|python_end|>"
            draft.texts.append(source.rest(0, max(start, 0)))
            read_bare_json_calls(source.rest(start + len(tag) if start >= 0 else 0), draft)
        return draft.done(source)


class Llama3Meta(Llama3_1):
    """Meta's own encoder for Llama 3.1 and later: text before calls, parallel calls one behind the other, no trimming.

    It writes neither dates nor tools: a system prompt that declares the tools is the caller's to write.
    """

    name = "llama3_meta"
    options: ClassVar[dict[str, Option]] = {
        "builtin_tools": Llama3_1.options["builtin_tools"],
        "end_of_call": Option("eom", ("eom", "eot"), "The end token of a message with calls."),
    }

    def write_system(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        if system is not None:
            w.turn(system)
            w.lit(self.header("system"), "header")
            w.content(system.pieces)
            w.lit(self.tokens[2], "end")

    def write_text(self, w: Writer, turn: Turn) -> None:
        w.content(turn.pieces)

    def write_calls(self, w: Writer, chat: Chat, turn: Turn) -> None:
        builtin = _builtin(chat) or ()
        if any(call.name == "code_interpreter" and call.name in builtin for call in turn.calls):
            w.lit("<|python_tag|>", "call")
        w.content(turn.pieces)
        for call in turn.calls:
            if call.name not in builtin:
                text = json.dumps({"type": "function", "name": call.name, "parameters": call.arguments})
            elif call.name == "code_interpreter" and list(call.arguments) == ["code"]:
                text = str(call.arguments["code"])
            else:
                text = self.builtin_call(turn, call)
            w.text(text, "call")

    def end_of(self, chat: Chat, turn: Turn, followed: bool) -> str:
        return "<|eom_id|>" if chat.options.end_of_call == "eom" else self.tokens[2]

    def write_result(self, w: Writer, turn: Turn) -> None:
        w.lit(self.header("ipython"), "header")
        w.text(result_text(turn), "result")
        w.end(self.tokens[2])


def read_bare_json_calls(text: str, draft: Draft) -> None:
    """Reads text, then JSON calls up to the end. JSON that is no call, or that text follows, is content.

    At the very start of the output an object with a name is meant as a call, whatever stands behind it.
    """
    for match in _CALL_START.finditer(text):
        calls, bad, end = _run_of_calls(text, match.start())
        at_start = not text[: match.start()].strip()
        if (bad and (at_start or '"parameters"' in bad.text)) or (calls and (end == len(text) or at_start)):
            draft.texts.append(text[: match.start()])
            draft.calls.extend(calls)
            draft.unparsed.extend([bad] if bad else [])
            draft.texts.append(text[end:])
            return
    draft.texts.append(text)


def _run_of_calls(text: str, at: int) -> tuple[list[ToolCall], UnparsedCall | None, int]:
    """Calls one behind the other from ``at`` on, the damaged one that ends them, and where they end."""
    calls: list[ToolCall] = []
    end = at
    while _CALL_START.match(text, at):
        try:
            value, after = decode_json(text, at)
            if not {"parameters", "arguments"} & set(value):
                break
            calls.append(call_from(value, ("parameters", "arguments")))
        except BadCall as error:
            return calls, UnparsedCall(text[at:], str(error)), len(text)
        at = end = after
        while at < len(text) and text[at] in " \t\r\n;":
            at += 1
    return calls, None, len(text) if at == len(text) else end


def read_python_call(text: str, draft: Draft) -> None:
    """Reads what follows ``<|python_tag|>``: a built-in tool's call, JSON calls, or code for the interpreter."""
    if _CALL_START.match(text.lstrip()):
        read_bare_json_calls(text, draft)
        return
    match = _BUILTIN.match(text)
    if not match:
        if re.match(r"\s*\w+\.call\(", text):
            draft.unparsed.append(UnparsedCall(text, "the call of a built-in tool has no closing parenthesis"))
        else:
            draft.calls.append(ToolCall("code_interpreter", {"code": text}))
        return
    try:
        draft.calls.append(ToolCall(match[1], _builtin_arguments(match[2])))
    except BadCall as error:
        draft.unparsed.append(UnparsedCall(text, str(error)))


def _builtin_arguments(inside: str) -> dict[str, Any]:
    """The arguments in ``a="x", b="y"``, whose values are written without escapes."""
    arguments: dict[str, Any] = {}
    at = 0
    while at < len(inside):
        match = _BUILTIN_ARGUMENT.match(inside, at)
        if not match:
            raise BadCall(f'expected an argument as name="value", found {inside[at : at + 30]!r}')
        following = re.compile(r'", (?=\w+=")').search(inside, match.end())
        end = following.start() if following else len(inside) - 1
        if end < match.end() or inside[end] != '"':
            raise BadCall(f"the value of {match[1]!r} has no closing quote")
        arguments[match[1]] = inside[match.end() : end]
        at = following.end() if following else len(inside)
    return arguments
