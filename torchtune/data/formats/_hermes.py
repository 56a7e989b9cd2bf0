"""Hermes 2 Pro and 3: ChatML with tools described as Python signatures, and results in a ``tool`` turn.

Source: the ``tool_use`` and ``default`` chat templates in the models' ``tokenizer_config.json``.
"""

from __future__ import annotations

from typing import Any

from ._hermes_style import result_text
from ._qwen import END, START, ChatML
from ._write import Chat, Turn, Writer, dumps

_HEAD = (
    "You are a function calling AI model. You are provided with function signatures within <tools></tools> XML tags. "
    "You may call one or more functions to assist with the user query. Don't make assumptions about what values to plug "
    "into functions. Here are the available tools: <tools> "
)
_FOOT = (
    " </tools>Use the following pydantic model json schema for each tool call you will make: "
    '{"properties": {"name": {"title": "Name", "type": "string"}, "arguments": {"title": "Arguments", "type": "object"}}, '
    '"required": ["name", "arguments"], "title": "FunctionCall", "type": "object"}}\n'
    "For each function call return a json object with function name and arguments within <tool_call></tool_call> XML tags "
    'as follows:\n<tool_call>\n{"name": <function-name>, "arguments": <args-dict>}\n</tool_call>'
)
_PYTHON_TYPES = {"string": "str", "number": "float", "integer": "int", "boolean": "bool", "null": "None"}


class Hermes(ChatML):
    """Hermes 2 Pro and 3 on Llama 3.

    The tool template cannot do without tools; a conversation without any is written as the models' default template has
    it. That template drops text beside calls; here it stands before them.
    """

    name = "hermes"
    stop = (END, "<|end_of_text|>")
    controls = (
        *("<|begin_of_text|>", "<|end_of_text|>", START, END, "<tools>", "</tools>"),
        *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    )
    #: A result is closed one way at the end of a prompt and another in a conversation that goes on.
    rewrites_history = True
    python_results = True

    def write_system(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        w.lit("<|begin_of_text|>")
        if chat.tools:
            w.lit(f"{START}system\n{_HEAD}")
            for at, function in enumerate(chat.functions):
                w.text("\n" * (at > 0) + describe(function), None)
            w.lit(f"{_FOOT}{END}\n")
        if system is not None:
            w.turn(system)
            w.lit(f"{START}system\n", "header")
            w.content(system.pieces)
            w.end(END, "\n")

    def write_result(self, w: Writer, turn: Turn, opens: bool, closes: bool, last: bool) -> None:
        w.turn(turn)
        w.lit(f"{START}tool\n" if opens else "", "header")
        w.weave(
            "result",
            "<tool_response>\n",
            result_text(turn, python=self.python_results),
            "\n</tool_response>" if last else "\n</tool_response>\n",
        )
        if closes:
            w.end(END)


def describe(function: dict[str, Any]) -> str:
    """A tool as the template puts it: JSON, with the signature and its arguments in the description."""
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    returns = function.get("return")
    signature = ", ".join(f"{name}: {python_type(schema)}" for name, schema in properties.items())
    text = f"{function['name']}({signature})"
    text += f" -> {python_type(returns)}" if returns is not None else ""
    text += f" - {function.get('description', '')}\n\n"
    text += "    Args:\n" if properties else ""
    for name, schema in properties.items():
        text += f"        {name}({python_type(schema)}): {str(schema.get('description', '')).strip()}"
    if isinstance(returns, dict) and "description" in returns:
        text += f"\n    Returns:\n        {returns['description']}"
    schema = dumps(parameters) if properties else "{}"
    return (
        f'{{"type": "function", "function": {{"name": "{function["name"]}", '
        f'"description": "{text}", "parameters": {schema}}}'
    )


def python_type(schema: Any) -> str:
    """The Python type of a JSON schema, as the template names it, which knows no item types of lists."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "array":
        return "list[Union[]]"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return "dict" if inner is None else f"dict[str, {python_type(inner)}]"
    if isinstance(kind, list):
        return f"Union[{','.join(python_type({'type': one}) for one in kind)}]"
    return "Union[]" if kind is None else _PYTHON_TYPES.get(kind, "Any")
