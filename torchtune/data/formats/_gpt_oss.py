"""gpt-oss: the harmony format, in which each message names its channel, and a call its recipient.

Source: the ``chat_template`` of the models' ``tokenizer_config.json``.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, ClassVar

from ._base import ChatFormat, Option, ParsedMessage, UnparsedCall
from ._read import BadCall, Draft, Source, call_from, decode_json
from ._write import NO_VALUE, Chat, Turn, Writer, dumps

_INDENT = "\n" + " " * 16
_RECIPIENT = re.compile(r"to=functions\.(\S+?)(?=<\||\s|\Z)")


class GptOss(ChatFormat):
    """gpt-oss 20b and 120b.

    A message makes one call: the official template writes the first one only. It also drops the text beside a call once a
    final answer follows; here that text always stands in the analysis channel before the call, where the template has it
    while the answer is open. Reasoning beside calls is dropped by a later answer, as the template does.
    """

    name = "gpt_oss"
    stop = ("<|return|>", "<|call|>", "<|endoftext|>")
    controls = (
        *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"),
        *("<|return|>", "<|call|>", "<|endoftext|>"),
    )
    options: ClassVar[dict[str, Option]] = {
        "reasoning_effort": Option("medium", ("low", "medium", "high"), "How much the model shall think."),
        "date_string": Option("2024-07-26", str, "Today's date, as the system message writes it."),
        "model_identity": Option(
            "You are ChatGPT, a large language model trained by OpenAI.", str, "First line of the system message."
        ),
    }
    rewrites_history = True
    writes_reasoning = True
    prompt = "<|start|>assistant"

    def write(self, w: Writer, chat: Chat) -> None:
        chat.refuse_late_system(self)
        system, turns = chat.split_system()
        options = chat.options
        w.lit("<|start|>system<|message|>")
        w.text(options.model_identity, None)
        w.lit(
            f"\nKnowledge cutoff: 2024-06\nCurrent date: {options.date_string}\n\nReasoning: {options.reasoning_effort}\n\n"
            "# Valid channels: analysis, commentary, final. Channel must be included for every message."
        )
        w.lit("\nCalls to these tools must go to the commentary channel: 'functions'." if chat.tools else "")
        w.lit("<|end|>")
        self._write_developer(w, chat, system)
        name = ""
        for at, turn in enumerate(turns):
            w.turn(turn)
            if turn.role == "user":
                w.lit("<|start|>user<|message|>", "header")
                w.content(turn.pieces)
                w.end("<|end|>")
            elif turn.role == "tool":
                if not name:
                    raise self.refuse(
                        turn, "found a tool result without a call before it", "Remove it, or add the call."
                    )
                w.lit(f"<|start|>functions.{name} to=assistant<|channel|>commentary<|message|>", "header")
                w.text(dumps(turn.text if turn.value is NO_VALUE else turn.value), "result")
                w.end("<|end|>")
            else:
                answered = any(later.role == "assistant" and not later.calls for later in turns[at + 1 :])
                last = at == len(turns) - 1 and not chat.generate
                w.lit(self.prompt, "header")
                w.sampled = True
                name = self._write_answer(w, turn, answered, last)

    def _write_developer(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        if not chat.tools and (system is None or not system.text):
            return
        w.turn(system)
        w.lit("<|start|>developer<|message|>", "header" if system else None)
        if system is not None and system.text:
            w.lit("# Instructions\n\n")
            w.content(system.pieces)
            w.lit("\n\n")
        if chat.tools:
            w.weave(
                None,
                "# Tools\n\n## functions\n\nnamespace functions {\n\n",
                "".join(map(describe, chat.functions)),
                "} // namespace functions",
            )
        w.lit("<|end|>", "end" if system else None)

    def _write_answer(self, w: Writer, turn: Turn, answered: bool, last: bool) -> str:
        """An assistant turn behind its header; returns the name of the function that it calls."""
        content, reasoning = turn.text, turn.reasoning or ""
        if not turn.calls:
            if last and reasoning:
                self._write_analysis(w, reasoning, "reasoning")
            w.lit("<|channel|>final<|message|>", "header")
            w.content(turn.pieces)
            w.end("<|return|>" if last else "<|end|>")
            return ""
        if len(turn.calls) > 1:
            raise self.refuse(
                turn,
                f"found {len(turn.calls)} calls in one message, of which the official template writes the first alone",
                "Make them one call a message, each with its result.",
            )
        if content and reasoning:
            raise self.refuse(
                turn,
                f"found both text and reasoning beside the call of {turn.calls[0].name!r}",
                "Put both into reasoning_content: this family has one place for them.",
            )
        if content:
            self._write_analysis(w, content, "content")
        elif reasoning and not answered:
            self._write_analysis(w, reasoning, "reasoning")
        call = turn.calls[0]
        w.text(f" to=functions.{call.name}", "call")
        w.lit("<|channel|>commentary json<|message|>", "call")
        w.text(dumps(call.arguments), "call")
        w.end("<|call|>")
        return call.name

    def _write_analysis(self, w: Writer, text: str, part: Any) -> None:
        w.weave(part, "<|channel|>analysis<|message|>", text, "<|end|><|start|>assistant")

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        at = 0
        while at < len(source.text):
            body = source.find("<|message|>", at)
            if body < 0:
                draft.texts.append(source.rest(at))
                break
            header = source.rest(at, body)
            end, closing = source.first(("<|end|>", "<|start|>"), body)
            text = source.rest(body + len("<|message|>"), end if end >= 0 else None)
            recipient = _RECIPIENT.search(header)
            if recipient:
                self._read_call(recipient[1], text, source.rest(at, end if end >= 0 else None), draft)
            elif "<|channel|>analysis" in header:
                draft.reasoning = text if draft.reasoning is None else f"{draft.reasoning}\n{text}"
            else:
                draft.texts.append(text)
                source.complete = source.complete or closing == "<|end|>"
            if end < 0:
                break
            at = end + len("<|end|>") if closing == "<|end|>" else end
        return draft.done(source)

    def _read_call(self, name: str, text: str, emitted: str, draft: Draft) -> None:
        try:
            value, end = decode_json(text, len(text) - len(text.lstrip()))
            if text[end:].strip():
                raise BadCall(f"expected nothing after the arguments, found {text[end:].strip()[:30]!r}")
            draft.calls.append(call_from({"name": name, "arguments": value}))
        except BadCall as error:
            draft.unparsed.append(UnparsedCall(emitted, str(error)))


def describe(function: dict[str, Any]) -> str:
    """A tool as a TypeScript type."""
    description = function.get("description")
    text = f"// {description}\n" if description else ""
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    if not properties:
        return f"{text}type {function['name']} = () => any;\n\n"
    text += f"type {function['name']} = (_: {{\n"
    for name, schema in properties.items():
        if schema.get("description"):
            text += f"// {schema['description']}\n"
        optional = "" if name in (parameters.get("required") or ()) else "?"
        text += f"{name}{optional}: {typescript(schema)}{_default(schema)},\n"
    return text + "}) => any;\n\n"


def _default(schema: dict[str, Any]) -> str:
    if "default" not in schema:
        return ""
    if schema.get("enum"):
        return f", // default: {schema['default']}"
    if schema.get("oneOf"):
        return f"// default: {schema['default']}"
    return f", // default: {dumps(schema['default'])}"


def typescript(schema: dict[str, Any]) -> str:
    """The TypeScript type of a JSON schema, as the template names it, white space and all."""
    kind = schema.get("type")
    null = " | null" if schema.get("nullable") else ""
    if kind == "array":
        return _array(schema.get("items")) + null
    if isinstance(kind, list) and kind:
        return " | ".join(kind)
    if schema.get("oneOf"):
        return _one_of(schema["oneOf"])
    if kind == "string":
        if schema.get("enum"):
            return '"' + '" | "'.join(map(str, schema["enum"])) + '"'
        return "string" + null
    if kind == "object" and schema.get("properties"):
        required = schema.get("required") or ()
        inner = [
            f"{name}{'' if name in required else '?'}: {_INDENT}{typescript(one)}"
            for name, one in schema["properties"].items()
        ]
        return "{\n" + ", ".join(inner) + "}"
    simple = {"number": "number", "integer": "number", "boolean": "boolean", "object": "object"}
    return simple.get(kind, "any") if isinstance(kind, str) else "any"


def _array(items: Any) -> str:
    if not items:
        return "any[]"
    simple = {"string": "string[]", "number": "number[]", "integer": "number[]", "boolean": "boolean[]"}
    kind = items.get("type")
    if isinstance(kind, str) and kind in simple:
        return simple[kind]
    inner = typescript(items)
    return "any[]" if inner == "object | object" or len(inner) > 50 else inner + "[]"


def _one_of(variants: list[dict[str, Any]]) -> str:
    if len(variants) > 1 and any(variant.get("type") == "object" for variant in variants):
        return "any"
    texts = []
    for variant in variants:
        text = typescript(variant)
        text += f"// {variant['description']}" if variant.get("description") else ""
        text += f"\n{' ' * 20}// default: {dumps(variant['default'])}" if "default" in variant else ""
        texts.append(text)
    return " | \n".join(texts)
