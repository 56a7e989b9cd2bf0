"""Public sets of tool calls: for each the source, and how its rows become conversations in one of two known forms.

What a row looks like is from each set's card on the hub. An adapter changes a row's shape and leaves its words alone.
Pure: the standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchtune.data._json_values import read_literal
from torchtune.data._tool_calls import read_json

Row = Mapping[str, Any]


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        found = f"holds {type(value).__name__}" if column in row else f"is missing; found {list(row)}"
        raise ValueError(f"Column {column!r} {found}, but must hold text")
    return value


_GLAIVE_TURN = re.compile(r"(?:\A|\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE|FUNCTION CALL):")
_GLAIVE_CALL = re.compile(r"<functioncall>\s*(.*)", re.DOTALL)
_GLAIVE_ARGUMENTS = re.compile(r"""\A\{\s*"name"\s*:\s*"([^"]+)"\s*,\s*"arguments"\s*:\s*'(.*)'\s*\}\Z""", re.DOTALL)
_GLAIVE_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool", "FUNCTION CALL": "assistant"}
_GLAIVE_END = "<|endoftext|>"


def _json_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that stand one after another in a text, whatever is between them."""
    decoder, found, at = json.JSONDecoder(), [], text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError as error:
            raise ValueError(f"Column 'system': a tool is not valid JSON: {error}") from error
        found.append(value)
        at = text.find("{", end)
    return found


def _glaive_call(text: str) -> dict[str, Any]:
    """A call as glaive writes it: arguments in single quotes, which stand in no JSON, or as an object."""
    text = text.strip()
    quoted = _GLAIVE_ARGUMENTS.match(text)
    if quoted is None:
        return read_json(text, "Column 'chat', a <functioncall>")
    arguments = quoted[2]
    try:
        value = json.loads(arguments)
    except ValueError:
        value = read_json(arguments.replace("\\'", "'"), f"Column 'chat', the call of {quoted[1]!r}")
    return {"name": quoted[1], "arguments": value}


def glaive(row: Row) -> dict[str, Any]:
    """``system`` with the tools as JSON in its text, and ``chat`` as one text with USER:, ASSISTANT: and so on."""
    system, chat = _text(row, "system"), _text(row, "chat")
    messages: list[dict[str, Any]] = []
    parts = _GLAIVE_TURN.split(chat)
    if parts[0].strip():
        raise ValueError(f"Column 'chat' must begin with USER: or ASSISTANT:, but begins with {parts[0][:40]!r}")
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role, text = _GLAIVE_ROLES[speaker], said.replace(_GLAIVE_END, "").strip()
        call = _GLAIVE_CALL.search(text) if role == "assistant" else None
        if speaker == "FUNCTION CALL":
            messages.append({"role": role, "content": "", "tool_calls": [_glaive_call(text)]})
        elif call:
            content = text[: call.start()].strip()
            messages.append({"role": role, "content": content, "tool_calls": [_glaive_call(call[1])]})
        else:
            messages.append({"role": role, "content": text})
    head, brace, rest = system.partition("{")
    tools = _json_objects(brace + rest)
    if not tools:
        prompt = head.removeprefix("SYSTEM:").strip()
        messages = [*([{"role": "system", "content": prompt}] if prompt else []), *messages]
    return {"messages": messages, "tools": tools}


_XLAM_TYPES = {
    **{name: name for name in ("string", "integer", "number", "boolean", "object", "array")},
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "Dict": "object",
    **dict.fromkeys(("List", "list", "Tuple", "tuple", "Set", "set"), "array"),
}


def _typed(kind: str) -> dict[str, Any]:
    """A JSON Schema type of xLAM's Python-like one: ``List[int]``, ``str, optional``; none for ``Union`` and the like."""
    name, _, item = kind.split(",")[0].strip().partition("[")
    inner = item.rstrip("]").strip()
    if name == "Optional":
        return _typed(inner)
    found = _XLAM_TYPES.get(name)
    items = _typed(inner) if found == "array" and inner else {}
    return {**({"type": found} if found else {}), **({"items": items} if items else {})}


def _xlam_tool(tool: Row) -> dict[str, Any]:
    """A tool whose parameters are a flat mapping of names, as JSON Schema; one that is JSON Schema stays."""
    parameters = tool.get("parameters")
    if not isinstance(parameters, Mapping) or isinstance(parameters.get("properties"), Mapping):
        return dict(tool)
    properties, required = {}, []
    for name, entry in parameters.items():
        kind = str(entry.get("type", "string"))
        properties[name] = {**{k: v for k, v in entry.items() if k not in ("type", "required")}, **_typed(kind)}
        if entry.get("required", "optional" not in kind and "default" not in entry):
            required.append(name)
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    return {**tool, "parameters": schema}


def xlam(row: Row) -> dict[str, Any]:
    """``query``, and ``tools`` and ``answers`` as JSON strings; no results."""
    tools, calls = (read_json(_text(row, name), f"Column {name!r}") for name in ("tools", "answers"))
    messages = [
        {"role": "user", "content": _text(row, "query")},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    return {"messages": messages, "tools": [_xlam_tool(tool) for tool in tools]}


_HERMES_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)


def hermes(row: Row) -> dict[str, Any]:
    """ShareGPT with ``<tool_call>`` texts; the system text, which tells the model how to call, is left to the format."""
    turns = list(row.get("conversations") or [])
    tools = row.get("tools")
    listed = turns and turns[0].get("from") == "system" and _HERMES_TOOLS.search(turns[0]["value"])
    if listed:
        turns = turns[1:]
        if not tools:
            try:
                tools = json.loads(listed[1])
            except ValueError:
                tools = read_literal(listed[1], "message 0 of column 'conversations': no tools in <tools>")
    return {"conversations": turns, "tools": tools}


_ACE_TOOLS = "Here is a list of functions in JSON format that you can invoke:"
_ACE_NAME = re.compile(r"([^\[\](),=]+?)\s*\(")


def _ace_calls(text: str) -> list[dict[str, Any]] | None:
    """ToolACE's ``[name(key=value, ...), ...]``, whose names may have spaces; None where a text is no such list."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith(")]")):
        return None
    calls, at = [], 1
    while at < len(text) - 1:
        match = _ACE_NAME.match(text, at)
        if match is None:
            return None
        end = _closing(text, match.end())
        arguments = _ace_arguments(text[match.end() : end])
        if arguments is None:
            return None
        calls.append({"name": match[1].strip(), "arguments": arguments})
        at = end + 1
        while at < len(text) - 1 and text[at] in ", \n":
            at += 1
    return calls


def _closing(text: str, at: int) -> int:
    """Where the bracket closes that is open at a place, strings aside."""
    depth, quote = 1, ""
    while at < len(text):
        character = text[at]
        if quote:
            if character == "\\":
                at += 1
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if not depth:
                return at
        at += 1
    return at


def _ace_arguments(text: str) -> dict[str, Any] | None:
    """Keyword arguments, values as Python or JSON writes them."""
    arguments: dict[str, Any] = {}
    for part in _split_commas(text):
        name, equals, value = part.partition("=")
        if not equals:
            return None
        value = value.strip()
        try:
            arguments[name.strip()] = json.loads(value)
        except ValueError:
            try:
                arguments[name.strip()] = read_literal(value, name)
            except ValueError:
                return None
    return arguments


def _split_commas(text: str) -> Iterator[str]:
    """The parts between commas that stand in no bracket or string."""
    start = at = 0
    while at < len(text):
        if text[at] in "([{":
            at = _closing(text, at + 1)
        elif text[at] in "\"'":
            quote, at = text[at], at + 1
            while at < len(text) and text[at] != quote:
                at += 2 if text[at] == "\\" else 1
        elif text[at] == ",":
            yield text[start:at]
            start = at + 1
        at += 1
    if text[start:].strip():
        yield text[start:]


def toolace(row: Row) -> dict[str, Any]:
    """ShareGPT beside a ``system`` text with a JSON list of the tools; calls written ``[name(key="value")]``."""
    system = _text(row, "system")
    start = system.find("[", max(system.find(_ACE_TOOLS), 0))
    if start < 0:
        raise ValueError("Column 'system' has no list of functions")
    try:
        tools, _ = json.JSONDecoder().raw_decode(system, start)
    except ValueError as error:
        raise ValueError(f"Column 'system': the list of functions is not valid JSON: {error}") from error
    names = {tool.get("name"): str(tool.get("name")).replace(" ", "_") for tool in tools}
    turns: list[dict[str, Any]] = []
    for turn in row.get("conversations") or []:
        calls = _ace_calls(turn["value"]) if turn["from"] in ("assistant", "gpt") else None
        if calls is None:
            turns.append(dict(turn))
        else:
            calls = [{**call, "name": names.get(call["name"], call["name"].replace(" ", "_"))} for call in calls]
            turns.append({"from": "function_call", "value": json.dumps(calls, ensure_ascii=False)})
    return {"conversations": turns, "tools": [_ace_tool(tool, names) for tool in tools]}


def _ace_tool(tool: Row, names: Mapping[Any, str]) -> dict[str, Any]:
    """A tool with a name that can be called, its schema's ``dict`` as ``object``, and without the null ``required``."""
    kept = {key: value for key, value in tool.items() if not (key == "required" and value is None)}
    return {**_json_schema(kept), "name": names[tool.get("name")]}


_SCHEMA_TYPES = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "list": "array",
    "int": "integer",
    "str": "string",
}


def _json_schema(value: Any) -> Any:
    """A schema with JSON Schema's names for types."""
    if isinstance(value, list):
        return [_json_schema(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    changed = {key: _json_schema(item) for key, item in value.items()}
    kind = changed.get("type")
    if isinstance(kind, str):
        changed["type"] = _SCHEMA_TYPES.get(kind, kind)
    return changed


def apigen_mt(row: Row) -> dict[str, Any]:
    """ShareGPT with ``function_call`` and ``observation``, beside the policy (``system``) and the ``tools`` as JSON."""
    turns = list(row.get("conversations") or [])
    policy = row.get("system")
    return {
        "conversations": [*([{"from": "system", "value": policy}] if policy else []), *turns],
        "tools": row.get("tools"),
    }


_WHEN_CALL = re.compile(r"\A\s*<TOOLCALL>\s*(.*?)\s*</TOOLCALL>\s*\Z", re.DOTALL)


def when2call(row: Row) -> dict[str, Any]:
    """OpenAI messages whose calls are ``<TOOLCALL>[...]</TOOLCALL>`` texts, and ``tools`` each a JSON string."""
    messages: list[Any] = []
    for message in row.get("messages") or []:
        called = _WHEN_CALL.match(message.get("content") or "") if message.get("role") == "assistant" else None
        messages.append(
            {**message, "content": "", "tool_calls": read_json(called[1], "a <TOOLCALL>")} if called else message
        )
    tools = [json.loads(tool) if isinstance(tool, str) else tool for tool in row.get("tools") or []]
    return {"messages": messages, "tools": [_json_schema(tool) for tool in tools]}


@dataclass(frozen=True)
class ToolSet:
    """A public set: its name on the hub, the adapter of its rows, the form that they have then, and columns they had."""

    source: str
    adapt: Callable[[Row], dict[str, Any]]
    style: str
    columns: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)


#: The public sets, as ``style`` of :func:`tool_calling_dataset` names them.
TOOL_SETS: dict[str, ToolSet] = {
    "glaive": ToolSet("glaiveai/glaive-function-calling-v2", glaive, "openai", frozenset(("system", "chat"))),
    "xlam": ToolSet("Salesforce/xlam-function-calling-60k", xlam, "openai", frozenset(("query", "answers", "tools"))),
    "hermes": ToolSet(
        "NousResearch/hermes-function-calling-v1",
        hermes,
        "sharegpt",
        frozenset(("conversations",)),
        {"name": "func_calling", "parse_text_calls": True},
    ),
    "toolace": ToolSet("Team-ACE/ToolACE", toolace, "sharegpt", frozenset(("system", "conversations"))),
    "apigen_mt": ToolSet("Salesforce/APIGen-MT-5k", apigen_mt, "sharegpt", frozenset(("system", "conversations"))),
    "when2call": ToolSet("nvidia/When2Call", when2call, "openai", frozenset(("messages",)), {"name": "train_sft"}),
}
