"""Twenty kinds of rows that training libraries get wrong, and what five families make of each.

``tests/assets/formats/tool_cases.json`` holds what is expected; ``python tests/data/formats/tool_cases.py`` prints the page
docs/tool_cases.md, which the tests hold equal to it.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchtune.data import OpenAIToMessages, ShareGPTToMessages, validate_messages
from torchtune.data.formats import get_format

FAMILIES = ("llama3_1", "qwen2_5", "qwen3", "mistral_v7", "hermes")
EXPECTED: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[2] / "assets" / "formats" / "tool_cases.json").read_text(encoding="utf-8")
)

PARAMETERS = {"type": "object", "properties": {"city": {"type": ["string", "null"], "description": "Where"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": PARAMETERS}}]


def call(arguments: Any = None, identity: str | None = "abc123XYZ", name: str = "weather") -> dict[str, Any]:
    """A call in OpenAI form."""
    function = {"name": name} if arguments is None else {"name": name, "arguments": arguments}
    return ({} if identity is None else {"id": identity}) | {"type": "function", "function": function}


def result(content: Any = "sunny", identity: str | None = "abc123XYZ") -> dict[str, Any]:
    return {"role": "tool", "content": content} | ({} if identity is None else {"tool_call_id": identity})


def assistant(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls), **fields}


def row(*messages: dict[str, Any], tools: Any = TOOLS) -> dict[str, Any]:
    return {"messages": list(messages)} | ({} if tools is None else {"tools": tools})


USER = {"role": "user", "content": "Weather in Rome?"}
ANSWER = {"role": "assistant", "content": "It is sunny."}
ROME = call({"city": "Rome"})
TAGS = "a </tool_call> <think> b </think> <|im_end|> </s> [/INST] <|eot_id|>"
LONG_ID = "call_oIHazX6yQrB8hUwl4cRilFKj"
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Weather in Rome?"},
        {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Rome"}})},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "It is sunny."},
    ],
    "tools": json.dumps(TOOLS),
}
NO_IDS = row(USER, assistant(call({"city": "Rome"}, None)), result("sunny", None), ANSWER)


@dataclass
class Case:
    """A row, or several that must come out the same.

    Args:
        title: what the row has.
        rule: what is done with it.
        rows: rows in OpenAI form, or ShareGPT where they have ``conversations``.
        show: messages whose text is shown; "sampled": all that the model emits; "cut": what is read from the first call
            once its text ends in the middle.
        options: of a family's format.
    """

    title: str
    rule: str
    rows: list[dict[str, Any]]
    show: tuple[int, ...] | str = (1,)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


DERIVE = {"mistral_v7": {"call_ids": "derive"}}
MISSING = {key: value for key, value in assistant(ROME).items() if key != "content"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Weather in Rome?"}]}
TURNS = [
    message
    for n in "123"
    for message in ({"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"})
]
RUNS = [{"role": role, "content": text} for role, text in zip(("user",) * 2 + ("assistant",) * 2, "abcd", strict=True)]

CASES: dict[str, Case] = {
    "argument_strings": Case(
        "Arguments as an object, and as a JSON string",
        "Both give the same text; nothing is encoded twice.",
        [row(USER, assistant(call(a)), result(), ANSWER) for a in ({"city": "Rome"}, '{"city": "Rome"}')],
    ),
    "text_beside_call": Case(
        "Text beside a call",
        "It stands before the call; no family loses it.",
        [row(USER, assistant(ROME, content="One moment."), result(), ANSWER)],
    ),
    "reasoning_beside_call": Case(
        "Reasoning beside a call",
        "A thought where the family thinks; elsewhere `reasoning_content` is left out, as the templates do.",
        [row(USER, assistant(ROME, reasoning_content="Look it up."), result(), ANSWER)],
    ),
    "parallel_out_of_order": Case(
        "Two parallel calls, results out of order",
        "Results keep the row's order, and their ids where the family writes ids. Llama 3.1 takes one call a message.",
        [
            row(
                USER,
                assistant(call({"city": "Oslo"}, "first0001"), call({"city": "Rome"}, "second002")),
                result("rain", "second002"),
                result("sun", "first0001"),
                ANSWER,
            )
        ],
        (1, 2, 3),
    ),
    "empty_tools": Case(
        "`tools` empty, and `tools` absent",
        "The same.",
        [row(USER, ANSWER, tools=[]), row(USER, ANSWER, tools=None)],
        (0, 1),
    ),
    "sharegpt": Case(
        "A ShareGPT row with a call, and the same in OpenAI form without ids",
        "The same text. Mistral needs ids: `call_ids: derive` makes them.",
        [SHAREGPT, NO_IDS],
        (1, 2),
        DERIVE,
    ),
    "content_forms": Case(
        "Content missing, null, empty, in parts",
        "The same text.",
        [
            row(user, turn, result(), ANSWER)
            for user, turn in (
                (USER, assistant(ROME)),
                (USER, MISSING),
                (USER, assistant(ROME, content=None)),
                (PARTS, assistant(ROME)),
            )
        ],
    ),
    "null_beside_padding": Case(
        "A null argument beside the nulls that Arrow pads with",
        "A null stays where the schema allows it; padding is removed.",
        [row(USER, assistant(call({"city": None, "order_id": None})), result(), ANSWER)],
    ),
    "no_arguments": Case(
        "A call without `arguments`, and with empty ones",
        "`{}`.",
        [row(USER, assistant(call(a)), result(), ANSWER) for a in (None, {}, "{}", "")],
    ),
    "masks": Case(
        "Call, result, answer: what is trained",
        "With `train_on: sampled` the call and the answer, each with its end token; never the result.",
        [row(USER, assistant(ROME), result(), ANSWER)],
        "sampled",
    ),
    "history_without_thoughts": Case(
        "Three turns of history without thoughts",
        "Qwen 3 writes an empty thought on the last turn only, as its template does.",
        [row(*TURNS, tools=None)],
        (1, 3, 5),
    ),
    "digits": Case(
        'Digits in a string: `"75001"`',
        "It stays a string, written and read.",
        [row(USER, assistant(call({"city": "75001"})), result(), ANSWER)],
    ),
    "tags_in_arguments": Case(
        "Tags and control tokens in arguments",
        "They stay text, and come back as they were; none becomes a token.",
        [row(USER, assistant(call({"city": TAGS})), result(), ANSWER)],
    ),
    "long_ids": Case(
        "Ids such as `call_oIHaz...`",
        "Mistral's are nine letters or digits: refused, unless `call_ids: derive`. The others write no ids.",
        [row(USER, assistant(call({"city": "Rome"}, LONG_ID)), result("sunny", LONG_ID), ANSWER)],
        (1, 2),
    ),
    "unknown_id": Case(
        "A result for an unknown id",
        "Refused before any format sees it.",
        [row(USER, assistant(ROME), result("sunny", "other0001"), ANSWER)],
    ),
    "undeclared_tool": Case(
        "A call to an undeclared tool",
        "Refused before any format sees it.",
        [row(USER, assistant(call({"city": "Rome"}, name="forecast")), result(), ANSWER)],
    ),
    "cut_call": Case(
        "Output that was cut in mid-call",
        "No call, and an unparsed one with its text and reason.",
        [row(USER, assistant(ROME), result(), ANSWER)],
        "cut",
    ),
    "last_is_result": Case(
        "A last message that is a result",
        "It is written, and nothing of it is trained.",
        [row(USER, assistant(ROME), result())],
        (2,),
    ),
    "runs": Case(
        "Runs of user and of assistant messages",
        "Refused before any format sees it, as torchtune always has: join them in the data. Called without validation, "
        "formats keep each as a turn, and Mistral's joins them.",
        [row(*RUNS, tools=None)],
    ),
    "with_and_without_tools": Case(
        "A row without tools, in one file with rows that have some",
        "It is written as if it were alone.",
        [row(USER, ANSWER, tools=None)],
        (0, 1),
    ),
}


def outcome(case: Case, data: dict[str, Any], family: str) -> str:
    """What a family makes of a row: the text that the case shows, or the error."""
    fmt = get_format(family, **case.options.get(family, {}))
    transform = ShareGPTToMessages() if "conversations" in data else OpenAIToMessages()
    try:
        sample = transform(deepcopy(data))
        messages, tools = sample["messages"], sample.get("tools")
        validate_messages(messages, tools)
        segments = fmt.render(messages, tools)
    except ValueError as error:
        return f"Refused: {error}"
    if case.show == "sampled":
        indexes = sorted({s.message_index for s in segments if s.sampled and s.message_index is not None})
        return " | ".join("".join(s.text for s in segments if s.message_index == i and s.sampled) for i in indexes)
    if case.show == "cut":
        text = "".join(s.text for s in segments if s.message_index == 1 and s.sampled)
        read = fmt.parse(text[: text.index("Rome") + 2], tools)
        return f"{len(read.tool_calls)} calls; unparsed: {read.unparsed[0].text!r}, {read.unparsed[0].reason}"
    return "".join(s.text for s in segments if s.message_index in case.show)


def page() -> str:
    """docs/tool_cases.md."""
    lines = [
        "# Twenty hard rows\n",
        "Rows that training libraries get wrong, and what five families make of each here. This page is made from the",
        "table that the tests run, `tests/data/formats/tool_cases.py`; a test holds the two equal.\n",
        "| row | what we do | " + " | ".join(f"`{family}`" for family in FAMILIES) + " |",
        "|---|---|" + "---|" * len(FAMILIES),
    ]
    for name, case in CASES.items():
        cells = ["refused" if EXPECTED[name][family].startswith("Refused") else "written" for family in FAMILIES]
        cells = ["unparsed" if case.show == "cut" else cell for cell in cells]
        lines.append(f"| [{case.title}](#{name.replace('_', '-')}) | {case.rule} | {' | '.join(cells)} |")
    for name, case in CASES.items():
        lines += [f"\n({name.replace('_', '-')})=", f"## {case.title}\n", f"{case.rule}\n"]
        lines += ["Rows that come out the same:\n" if len(case.rows) > 1 else "The row:\n", "```json"]
        lines += [json.dumps({k: v for k, v in data.items() if k != "tools" or not v}) for data in case.rows]
        lines += ["```\n"]
        if case.options:
            lines += [f"With {json.dumps(case.options)}.\n"]
        by_text: dict[str, list[str]] = {}
        for family in FAMILIES:
            by_text.setdefault(EXPECTED[name][family], []).append(f"`{family}`")
        for text, families in by_text.items():
            lines += [f"{', '.join(families)}:\n", "````text", text.rstrip("\n"), "````\n"]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
