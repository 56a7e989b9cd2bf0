"""Pages of the chat formats, made from the formats themselves when the docs are built: ``formats/<name>.md``."""

from __future__ import annotations

import html
import inspect
import json
from pathlib import Path
from typing import Any

from torchtune.data import Message, ToolCall
from torchtune.data.formats import FORMATS, ChatFormat, Segment, get_format, list_formats

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where"}},
    "required": ["city"],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Weather now.", "parameters": PARAMETERS}}]
USER = Message("user", "Is it warm in Rome?")


def call(city: str = "Rome", identity: str | None = "abc123XYZ", text: str = "", **fields: Any) -> Message:
    """An answer that is a call."""
    calls = [ToolCall("weather", {"city": city}, identity)]
    return Message("assistant", text, tool_calls=calls, ipython=True, eot=False, **fields)


def result(content: Any = "24 degrees", identity: str | None = "abc123XYZ") -> Message:
    parts: Any = content if isinstance(content, str) else [{"type": "json", "content": content}]
    return Message("tool", parts, tool_call_id=identity, name="weather", eot=False)


#: The conversation of each page; what a family has no place for is left out.
CHAT = [
    Message("system", "Answer in one sentence."),
    USER,
    call(reasoning_content="I should look it up."),
    result(),
    Message("assistant", "Yes, it has 24 degrees.", reasoning_content="24 is warm."),
]
TWO_CALLS = Message(
    "assistant",
    "",
    tool_calls=[ToolCall("weather", {"city": city}, f"{city}00001") for city in ("Rome", "Oslo")],
    ipython=True,
)
ANSWER = Message("assistant", "Yes.")
#: What a row may have -> a conversation that has it, its tools, and a text that must come out.
PROBES: dict[str, tuple[list[Message], list[Any], str]] = {
    "a system message": ([Message("system", "Be brief."), USER, ANSWER], [], "Be brief."),
    "tool definitions": ([USER, ANSWER], TOOLS, "Weather now."),
    "a call and its result": ([USER, call(), result(), ANSWER], TOOLS, "24 degrees"),
    "a call without an id": ([USER, call(identity=None), result(identity=None), ANSWER], TOOLS, "24 degrees"),
    "an id such as `call_oIHaz6yQ`": (
        [USER, call(identity="call_oIHaz6yQ"), result(identity="call_oIHaz6yQ"), ANSWER],
        TOOLS,
        "24 degrees",
    ),
    "two calls in one message": (
        [USER, TWO_CALLS, result("one", "Rome00001"), result("two", "Oslo00001"), ANSWER],
        TOOLS,
        "Oslo",
    ),
    "text beside a call": ([USER, call(text="One moment."), result(), ANSWER], TOOLS, "One moment."),
    "a result that is an object": ([USER, call(), result({"degrees": 24}), ANSWER], TOOLS, "degrees"),
    "reasoning": ([USER, Message("assistant", "Yes.", reasoning_content="It is summer.")], [], "It is summer."),
    "reasoning of earlier turns": (
        [USER, Message("assistant", "Yes.", reasoning_content="It is summer."), USER, ANSWER],
        [],
        "It is summer.",
    ),
    "two user messages in a row": ([Message("user", "Hello."), USER, ANSWER], [], "Hello."),
    "a first message that is the assistant's": ([Message("assistant", "Hello."), USER, ANSWER], [], "Hello."),
    "an image": ([Message("user", [{"type": "image", "content": None}]), ANSWER], [], ""),
}


def coloured(segments: list[Segment]) -> str:
    """Segments as HTML: trained text in ``b``, control tokens marked."""
    spans = []
    for segment in segments:
        text = html.escape(segment.text, quote=False)
        text = f'<span class="control">{text}</span>' if segment.special else text
        spans.append(f"<b>{text}</b>" if segment.sampled else text)
    body = "".join(spans).replace("</b><b>", "")
    return f'<pre class="chat">{body}</pre>'


def show(segments: list[Segment]) -> str:
    """The same as a block of a page."""
    return f"```{{raw}} html\n{coloured(segments)}\n```"


def example(name: str) -> tuple[list[Segment], ChatFormat, list[Message]]:
    """The conversation of the page: as much of it as the family takes."""
    fmt = get_format(name)
    if not fmt.native_tools:
        fmt = get_format(name, tool_convention="hermes")
    last: ValueError | None = None
    for messages in (CHAT, CHAT[1:]):
        try:
            return fmt.render(messages, TOOLS), fmt, messages
        except ValueError as error:
            last = error
    raise ValueError(f"No page for {name}: it takes no part of the conversation") from last


def limits(fmt: ChatFormat) -> list[tuple[str, str]]:
    """What the format refuses or leaves out, each with how."""
    found: list[tuple[str, str]] = []
    for what, (messages, tools, text) in PROBES.items():
        if "a call and its result" in dict(found) and any(message.tool_calls for message in messages):
            continue  # no call at all: the rest follows
        try:
            segments = fmt.render(messages, tools)
        except ValueError as error:
            found.append((what, "Refused: " + str(error).removeprefix(f"Format {fmt.name}").lstrip(", :")))
            continue
        written = "".join(segment.text for segment in segments)
        if text not in written and json.dumps(text)[1:-1] not in written:
            found.append((what, "Left out"))
    return found


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def page(name: str) -> str:
    """The page of a format."""
    segments, fmt, messages = example(name)
    plain = get_format(name)
    allowed = {key: option.expected for key, option in fmt.options.items()}
    lines = [f"# {name}\n", f"{FORMATS[name].about}. {inspect.cleandoc(type(fmt).__doc__ or '')}\n"]
    lines += [f"A turn ends in {' or '.join(f'`{stop}`' for stop in fmt.stop)}.\n" if fmt.stop else ""]
    if fmt.rewrites_history:
        lines += ["A later message changes how an earlier one is written: train on `expand_turns`.\n"]
    if plain.default_system:
        lines += [f"Without a system message it writes: {plain.default_system!r}.\n"]
    lines += ["## One conversation\n"]
    lines += ['Tools are written by `tool_convention="hermes"`.\n'] if not plain.native_tools else []
    lines += [
        "On green ground stands what the model itself emits, and what `train_on: sampled` trains.\n",
        show(segments),
        "",
    ]
    prompt = fmt.render(messages[:-1], TOOLS, add_generation_prompt=True)
    before = len(fmt.render(messages[:-1], TOOLS))
    lines += ["The prompt for the last turn ends in:\n", show(prompt[before:] or prompt[-1:]), ""]
    if fmt.options:
        lines += ["## Options\n", "| option | default | values | what it does |", "|---|---|---|---|"]
        lines += [
            f"| `{k}` | `{_cell(repr(o.default))}` | {_cell(allowed[k])} | {_cell(o.doc)} |"
            for k, o in fmt.options.items()
        ]
        lines += [""]
    lines += ["## What it cannot express\n"]
    found = limits(plain)
    if found:
        lines += ["| a row with | what happens |", "|---|---|", *(f"| {w} | {_cell(how)} |" for w, how in found)]
    else:
        lines += ["Of what the other families have, nothing."]
    return "\n".join(lines).rstrip() + "\n"


def index() -> str:
    """The page that lists the pages."""
    head = "# Formats, one by one\n\nMade from the formats themselves when these pages are built.\n\n```{toctree}\n:maxdepth: 1\n\n"
    return head + "\n".join(list_formats()) + "\n```\n"


def write_pages(folder: Path) -> None:
    """Writes all pages; one that has not changed is left alone, so that it is not built anew."""
    folder.mkdir(exist_ok=True)
    for name, text in {"index": index(), **{name: page(name) for name in list_formats()}}.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
