"""Draws a conversation as a family writes it, what is trained in colour: ``python docs/pictures/masked.py`` writes docs/_static/masked_*.svg.

The pages of the docs show the same as text, by ``{conversation} NAME``.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchtune.data import OpenAIToMessages
from torchtune.data.formats import Segment, get_format

STATIC = Path(__file__).parents[1] / "_static"
COLUMNS, CHAR, LINE = 72, 7.25, 17
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def conversation(*cities: str) -> dict[str, Any]:
    """A question, one call a city in one message, their results, an answer."""
    calls = [
        {"id": f"oslo0000{i}", "type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}
        for i, city in enumerate(cities)
    ]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"{4 + 2 * i} degrees"} for i, call in enumerate(calls)
    ]
    degrees = ", ".join(f"{4 + 2 * i} in {city}" for i, city in enumerate(cities))
    return {
        "messages": [
            {"role": "user", "content": f"Weather in {' and '.join(cities)}?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            *results,
            {"role": "assistant", "content": f"{degrees}."},
        ],
        "tools": TOOLS,
    }


#: Formats whose template takes one call a message.
ONE_CALL = ("llama3_2",)


def segments(name: str) -> list[Segment]:
    """The conversation in a format."""
    cities = ("Oslo",) if name in ONE_CALL else ("Oslo", "Bergen")
    sample = OpenAIToMessages()(conversation(*cities))
    return get_format(name).render(sample["messages"], sample["tools"])


def lines(name: str) -> Iterator[list[tuple[str, bool, bool]]]:
    """The rendered text line by line, each a list of (text, trained, control token)."""
    line: list[tuple[str, bool, bool]] = []
    width = 0
    for segment in segments(name):
        for i, part in enumerate(segment.text.split("\n")):
            if i:
                yield line
                line, width = [], 0
            while part:
                room = COLUMNS - width
                cut = len(part) if len(part) <= room else part.rfind(" ", 0, room) + 1 or (0 if line else room)
                if cut:
                    line.append((part[:cut], segment.sampled, segment.special))
                width, part = width + cut, part[cut:]
                if part:
                    yield line
                    line, width = [], 0
    yield line


def draw(name: str) -> str:
    """The picture, as SVG."""
    out, y = [], LINE + 6
    for line in lines(name):
        x = 12.0
        for text, trained, control in line:
            width = len(text) * CHAR
            if trained:
                out.append(f'<rect x="{x:.1f}" y="{y - 12.5}" width="{width:.1f}" height="{LINE}" fill="#c7f0d2"/>')
            colour = "#8250df" if control else "#1f2328" if trained else "#57606a"
            out.append(
                f'<text x="{x:.1f}" y="{y}" fill="{colour}" textLength="{width:.1f}" xml:space="preserve">{html.escape(text)}</text>'
            )
            x += width
        y += LINE
    key = y + 8
    out.append(f'<rect x="12" y="{key - 12.5}" width="58" height="{LINE}" fill="#c7f0d2"/>')
    out.append(f'<text x="16" y="{key}" fill="#1f2328">trained</text>')
    out.append(
        f'<text x="84" y="{key}" fill="#57606a">read only</text><text x="170" y="{key}" fill="#8250df">control token</text>'
    )
    width, height = round(24 + COLUMNS * CHAR), key + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="ui-monospace, Menlo, Consolas, '
        f'DejaVu Sans Mono, monospace" font-size="12">\n<rect width="100%" height="100%" rx="8" fill="#f6f8fa"/>\n'
        + "\n".join(out)
        + "\n</svg>\n"
    )


def pictures() -> dict[str, str]:
    """File name -> SVG, of each format of which a picture is shown."""
    return {"masked_qwen2_5.svg": draw("qwen2_5")}


def main() -> None:
    STATIC.mkdir(exist_ok=True)
    for name, text in pictures().items():
        (STATIC / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
