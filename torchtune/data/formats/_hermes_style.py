"""The ``<tool_call>`` convention of Hermes and Qwen: shared by the families that have it, lent to those without tools."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ._parts import Option
from ._write import NO_VALUE, Chat, Piece, Turn, dumps

if TYPE_CHECKING:
    from ._base import ChatFormat

#: The option that formats without native tools take.
TOOL_CONVENTION = Option(None, ("hermes",), 'How to write tools: None refuses calls, "hermes" writes <tool_call> text.')

TOOLS_HEAD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
TOOLS_FOOT = """</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""

#: Before a chat template without tools: its conversation is rewritten in plain turns, as :func:`to_plain_turns` does.
_LENT = """{%- set lent = namespace(turns=[], tools='', results=false) -%}
{%- for message in messages -%}
    {%- set said = message.content -%}
    {%- if message.role == 'tool' -%}
        {%- set said = '<tool_response>\n' ~ (said if said is string else said | tojson) ~ '\n</tool_response>' -%}
        {%- if lent.results -%}
            {%- set said = lent.turns[-1].content ~ '\n' ~ said -%}
            {%- set lent.turns = lent.turns[:-1] -%}
        {%- endif -%}
        {%- set lent.turns = lent.turns + [{'role': 'user', 'content': said}] -%}
    {%- elif message.tool_calls -%}
        {%- set said = said or '' -%}
        {%- if said is not string -%}{%- set said = said | map(attribute='text') | join -%}{%- endif -%}
        {%- set calls = namespace(text=said) -%}
        {%- for call in message.tool_calls -%}
            {%- set call = call.function or call -%}
            {%- set arguments = call.arguments if call.arguments is string else call.arguments | tojson -%}
            {%- set calls.text = calls.text ~ ('\n' if calls.text else '') ~ '<tool_call>\n{"name": "' ~ call.name -%}
            {%- set calls.text = calls.text ~ '", "arguments": ' ~ arguments ~ '}\n</tool_call>' -%}
        {%- endfor -%}
        {%- set lent.turns = lent.turns + [{'role': 'assistant', 'content': calls.text}] -%}
    {%- else -%}
        {%- set lent.turns = lent.turns + [{'role': message.role, 'content': '' if said is none else said}] -%}
    {%- endif -%}
    {%- set lent.results = message.role == 'tool' -%}
{%- endfor -%}
{%- if tools -%}
    {%- for tool in tools -%}{%- set lent.tools = lent.tools ~ (tool | tojson) ~ '\n' -%}{%- endfor -%}
    {%- set lent.tools = HEAD ~ lent.tools ~ FOOT -%}
    {%- if lent.turns[0].role == 'system' -%}
        {%- set said = lent.turns[0].content ~ ('\n\n' if lent.turns[0].content else '') ~ lent.tools -%}
        {%- set lent.turns = [{'role': 'system', 'content': said}] + lent.turns[1:] -%}
    {%- elif SYSTEM is string -%}
        {%- set lent.turns = [{'role': 'system', 'content': SYSTEM ~ lent.tools}] + lent.turns -%}
    {%- else -%}
        {%- set said = lent.tools ~ '\n\n' ~ lent.turns[0].content -%}
        {%- set lent.turns = [{'role': lent.turns[0].role, 'content': said}] + lent.turns[1:] -%}
    {%- endif -%}
    {%- set tools = none -%}
{%- endif -%}
{%- set messages = lent.turns -%}
"""


def own_template(template: str) -> str:
    """A chat template without what :func:`lend_tools` put before it."""
    begin, end = _LENT.partition("\n")[0], _LENT.rstrip("\n").rpartition("\n")[2]
    return template.partition(end)[2] if template.startswith(begin) else template


def lend_tools(template: str, fmt: ChatFormat) -> str:
    """A chat template without tools as one that writes them in this convention; one that was lent them stays as it is."""
    if own_template(template) != template:
        return template
    lead = f"{fmt.default_system}\n\n" if fmt.default_system else ""
    values = {"HEAD": TOOLS_HEAD, "FOOT": TOOLS_FOOT, "SYSTEM": lead if fmt.system_role else None}
    text = _LENT
    for name, value in values.items():
        text = text.replace(name, "none" if value is None else json.dumps(value))
    return text.rstrip("\n") + template


def call_json(name: str, arguments: dict[str, Any], key: str = "arguments") -> str:
    """``{"name": "f", "arguments": {...}}``."""
    return f'{{"name": "{name}", "{key}": {dumps(arguments)}}}'


def result_text(turn: Turn, *, python: bool = False) -> str:
    """A tool result as text: a JSON value as JSON, or as Python prints it, which some templates do."""
    if turn.value is NO_VALUE:
        return turn.text
    return str(turn.value) if python else dumps(turn.value)


def to_plain_turns(chat: Chat, fmt: ChatFormat) -> None:
    """Writes tools, calls and results into the text of plain turns, in place."""
    turns: list[Turn] = []
    for turn in chat.turns:
        if turn.calls:
            lead = "\n" if turn.pieces and turn.text else ""
            for call in turn.calls:
                text = f"{lead}<tool_call>\n{call_json(call.name, call.arguments)}\n</tool_call>"
                turn.pieces.append(Piece(text, "call"))
                lead = "\n"
            turn.calls = []
        elif turn.role == "tool":
            text = f"<tool_response>\n{result_text(turn)}\n</tool_response>"
            if turns and turns[-1].role == "user" and turns[-1].pieces[-1].part == "result":
                turns[-1].pieces.append(Piece("\n" + text, "result", turn.index))
                continue
            turn.role, turn.value, turn.pieces = "user", NO_VALUE, [Piece(text, "result", turn.index)]
        turns.append(turn)
    chat.turns = turns
    if chat.tools:
        _place_tools(chat, fmt)
        chat.tools = []


def _place_tools(chat: Chat, fmt: ChatFormat) -> None:
    text = TOOLS_HEAD + "".join(f"{dumps(tool)}\n" for tool in chat.tools) + TOOLS_FOOT
    if chat.turns and chat.turns[0].role == "system":
        system = chat.turns[0]
        system.pieces.append(Piece(("\n\n" if system.text else "") + text))
    elif fmt.system_role:
        lead = f"{fmt.default_system}\n\n" if fmt.default_system else ""
        chat.turns.insert(0, Turn(None, "system", [Piece(lead + text)]))
    elif chat.turns:
        chat.turns[0].pieces.insert(0, Piece(text + "\n\n"))
