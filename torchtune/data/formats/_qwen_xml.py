"""Families that write calls as ``<function=f>`` tags: Qwen 3 Coder, Qwen 3.5 and 3.6, Nemotron 3.

Sources: the ``chat_template`` of each model's ``tokenizer_config.json`` (Qwen 3 Coder as of September 2025).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from torchtune.data._message import ToolCall

from ._base import Option, ParsedMessage
from ._qwen import END, START, ChatML, Qwen3, Qwen3Instruct, last_query, split_thought, write_thought
from ._read import Draft, Source, read_tagged_calls, read_thinking
from ._write import NO_VALUE, Chat, Turn, Writer, dumps_schema
from ._xml_calls import argument_schemas, json_scalars, python_lists, python_scalars, read_function, write_function

_INSTRUCTIONS = """

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within \
<tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do not tell \
the user about function calls
</IMPORTANT>"""
_ACCESS = "You have access to the following functions:\n\n<tools>"


class Qwen3Coder(Qwen3Instruct):
    """Qwen 3 Coder: tools and calls in tags, no thinking."""

    name = "qwen3_coder"
    check_calls = True
    python_results = True
    result_tags = ("\n", "<tool_response>\n", "\n</tool_response>\n")
    default_with_tools = "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks."
    tools_title = ""

    #: An argument's value, or a schema's, as text.
    show = staticmethod(python_lists)

    def comparable(self, call: ToolCall) -> Any:
        return call.name, {key: self.show(value) for key, value in call.arguments.items()}

    def write_system_text(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        if system is not None:
            w.content(system.pieces)
        else:
            w.lit(self.default_with_tools)
        if chat.tools:
            w.lit("\n\n" if system or self.default_with_tools else "")
            w.weave(
                None,
                self.tools_title + _ACCESS,
                "".join(self.describe(function) for function in chat.functions),
                "\n</tools>" + _INSTRUCTIONS,
            )

    def describe(self, function: dict[str, Any]) -> str:
        """A tool in tags."""
        lines = ["", "<function>", f"<name>{function['name']}</name>"]
        if "description" in function:
            lines.append(f"<description>{str(function['description']).strip()}</description>")
        lines.append("<parameters>")
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        for name, schema in (properties or {}).items():
            lines += ["<parameter>", f"<name>{name}</name>"]
            if "type" in schema:
                lines.append(f"<type>{schema['type']}</type>")
            if "description" in schema:
                lines.append(f"<description>{str(schema['description']).strip()}</description>")
            lines += [*self._extra(schema, ("name", "type", "description")), "</parameter>"]
        lines += [*self._extra(parameters, ("type", "properties")), "</parameters>"]
        lines += [*self._extra(function, ("type", "name", "description", "parameters")), "</function>"]
        return "\n".join(lines)

    def _extra(self, schema: Any, handled: tuple[str, ...]) -> list[str]:
        entries = schema.items() if isinstance(schema, dict) else ()
        return [f"<{key}>{self.show(value)}</{key}>" for key, value in entries if key not in handled]

    def write_answer(self, w: Writer, chat: Chat, turn: Turn, at: int) -> None:
        if not turn.calls:
            w.content(turn.pieces)
            return
        content = turn.text.strip()
        w.text(content)
        self.write_calls(w, turn, "\n\n" if content else "")

    def write_calls(self, w: Writer, turn: Turn, before: str) -> None:
        for call in turn.calls:
            w.lit(f"{before}<tool_call>\n", "call")
            write_function(w, call, self.show)
            w.lit("\n</tool_call>", "call")
            before = "\n"

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        self.read_rest(source, 0, draft, tools)
        return draft.done(source)

    def read_rest(self, source: Source, start: int, draft: Draft, tools: list[dict[str, Any]]) -> None:
        """Content and calls from ``start`` on."""
        schemas = argument_schemas(tools)
        read_tagged_calls(
            source, start, draft, read_call=lambda src, at: read_function(src, at, schemas), before=self.before_calls
        )

    #: What stands between text and the first call.
    before_calls: str = "\n\n"


class Qwen3_5(Qwen3Coder):
    """Qwen 3.5: tools as JSON before the system text, and a thought on each turn after the last user message."""

    name = "qwen3_5"
    rewrites_history = True
    writes_reasoning = True
    options: ClassVar[dict[str, Option]] = Qwen3.options

    show = staticmethod(python_scalars)

    def write(self, w: Writer, chat: Chat) -> None:
        chat.refuse_late_system(self)
        if chat.turns and chat.turns[last_query(chat)].role != "user":
            raise self.refuse(None, "the conversation has no user message", "The template needs one.")
        super().write(w, chat)

    def write_system_text(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        text = system.text.strip() if system else ""
        if chat.tools:
            w.weave(
                None,
                "# Tools\n\n" + _ACCESS,
                "".join("\n" + dumps_schema(tool) for tool in chat.tools),
                "\n</tools>" + _INSTRUCTIONS,
            )
            w.lit("\n\n" if text else "")
        w.text(text)

    def write_text(self, w: Writer, turn: Turn) -> None:
        w.content(turn.stripped())

    def write_answer(self, w: Writer, chat: Chat, turn: Turn, at: int) -> None:
        reasoning, content = split_thought(turn)
        content = content.strip()
        if at > last_query(chat):
            write_thought(w, reasoning.strip(), self.given(chat))
        w.text(content)
        self.write_calls(w, turn, "\n\n" if content else "")

    def write_result(self, w: Writer, turn: Turn, opens: bool, closes: bool, last: bool) -> None:
        if turn.value is NO_VALUE:
            turn.pieces = turn.stripped()
        super().write_result(w, turn, opens, closes, last)

    def given(self, chat: Chat) -> str:
        """What the generation prompt writes of the turn itself."""
        return "<think>\n" if chat.options.enable_thinking else "<think>\n\n</think>\n\n"

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        w.lit(f"{START}assistant\n", "header")
        w.lit(self.given(chat), "reasoning")

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        self.read_rest(source, read_thinking(source, draft), draft, tools)
        return draft.done(source)

    python_results = False
    result_tags = ChatML.result_tags


class Qwen3_6(Qwen3_5):
    """Qwen 3.6: as 3.5, with JSON's true, false and null."""

    name = "qwen3_6"
    show = staticmethod(json_scalars)


class Nemotron3(Qwen3_5):
    """Nemotron 3 Nano: the tags of Qwen 3 Coder, and a thought, empty or not, on every turn."""

    name = "nemotron3"
    tools_title = "# Tools\n\n"
    default_with_tools = ""
    before_calls = "\n"
    python_results = True
    result_tags = Qwen3Coder.result_tags
    write_result = ChatML.write_result

    def write(self, w: Writer, chat: Chat) -> None:
        ChatML.write(self, w, chat)

    def write_text(self, w: Writer, turn: Turn) -> None:
        w.content(turn.pieces)

    def write_system(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        if system is None and not chat.tools:
            w.lit(f"{START}system\n{END}\n")
            return
        super().write_system(w, chat, system if system and system.text else None)

    write_system_text = Qwen3Coder.write_system_text

    def describe(self, function: dict[str, Any]) -> str:
        """A tool in tags: choices follow the description, the required names come last."""
        parameters = function.get("parameters")
        if isinstance(parameters, dict):
            properties = parameters.get("properties") or {}
            first = {k: {"enum": s["enum"], **s} if "enum" in s else s for k, s in properties.items()}
            parameters = {**parameters, "properties": first} if properties else dict(parameters)
            if "required" in parameters:
                parameters["required"] = parameters.pop("required")
            function = {**function, "parameters": parameters}
        return super().describe(function)

    def write_answer(self, w: Writer, chat: Chat, turn: Turn, at: int) -> None:
        opening, thought, closing, content = self._parts(turn)
        if at < chat.last("user") and closing:
            content = content.strip() if turn.calls else closing.partition("</think>")[2] + content
            opening, thought, closing = "<think></think>", "", ""
        write_thought(w, thought, self.given(chat), opening, closing)
        content = content.rstrip() if opening or closing else content.strip()
        w.text(content)
        if turn.calls:
            self.write_calls(w, turn, "" if not content and closing.endswith("\n") else "\n")
            w.lit("\n", "call")

    def _parts(self, turn: Turn) -> tuple[str, str, str, str]:
        """What opens the thought, the thought, what closes it, and the text after it."""
        content = turn.text
        if turn.reasoning and turn.reasoning.strip():
            return "<think>\n", turn.reasoning, "\n</think>\n", content
        if "<think>" not in content and "</think>" not in content:
            return "<think></think>", "", "", content
        before, tag, rest = content.partition("<think>")
        thought, end, rest = rest.partition("</think>")
        if before.strip() or not end:
            return "", "", "", content
        newline = "\n" if thought.startswith("\n") else ""
        return "<think>" + newline, thought[len(newline) :], "</think>", rest

    def given(self, chat: Chat) -> str:
        return "<think>\n" if chat.options.enable_thinking else "<think></think>"
