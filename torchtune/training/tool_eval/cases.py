"""Cases to score: a conversation up to an assistant turn, the tools, and the calls that are right there. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torchtune.data._message import TOOL_ROLES, Message
from torchtune.training.tool_eval.scoring import ExpectedCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Which assistant turns of a conversation become cases.
Turns = Literal["all", "first", "last"]

#: Types of the Berkeley rows that JSON Schema writes otherwise; None: any type, so no ``type`` at all.
_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array", "list": "array", "any": None}


@dataclass
class ToolCase:
    """A prompt and the calls that are right after it.

    Args:
        messages: the conversation before the turn.
        tools: the tools at hand, as OpenAI function schemas.
        expected: the calls of the turn; none where no call is right.
        id: where it comes from, for reports.
        loose_strings: compare strings as the Berkeley leaderboard does.
    """

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    expected: list[ExpectedCall] = field(default_factory=list)
    id: str = ""
    loose_strings: bool = False

    @property
    def tool_names(self) -> list[str]:
        """Names of the tools."""
        return [tool.get("function", tool)["name"] for tool in self.tools]


def cases_from_messages(
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]] | None = None,
    *,
    turns: Turns = "all",
    id: str = "",
) -> list[ToolCase]:
    """A case for each assistant turn, in order: what stands before it is the prompt, its calls are expected.

    Assistant messages directly after each other are one turn. A masked or unweighted message is a turn like others.

    Args:
        messages: a conversation, validated.
        tools: its tools.
        turns: all assistant turns, or only the first or the last.
        id: where the conversation comes from; the index of the message is appended.

    Raises:
        ValueError: if ``turns`` is unknown, or a call is written as text, so that what is expected cannot be known.
    """
    if turns not in ("all", "first", "last"):
        raise ValueError(f"turns must be 'all', 'first' or 'last', but is {turns!r}")
    asked = [i for i, message in enumerate(messages) if message.role == "assistant" and i > 0]
    starts = [i for i in asked if messages[i - 1].role != "assistant"]
    cases = []
    for start in {"all": starts, "first": starts[:1], "last": starts[-1:]}[turns]:
        expected = []
        for i in range(start, len(messages)):
            if messages[i].role != "assistant":
                break
            _check_structured(messages, i)
            expected += [ExpectedCall(call.name, call.arguments) for call in messages[i].tool_calls or []]
        where = f"message {start}"
        cases.append(ToolCase(list(messages[:start]), list(tools or []), expected, f"{id}, {where}" if id else where))
    return cases


def _check_structured(messages: Sequence[Message], i: int) -> None:
    message = messages[i]
    answered = i + 1 < len(messages) and messages[i + 1].role in TOOL_ROLES
    if (message.ipython or answered) and not message.tool_calls:
        raise ValueError(
            f"message {i}: the tool call is written as text, so the expected call is not known; "
            "give the row tool_calls, or let the transform parse the text"
        )


def case_from_bfcl(row: Mapping[str, Any], *, dots: Literal["keep", "underscore"] = "keep") -> ToolCase:
    """The case of a row of the Berkeley Function Calling Leaderboard, single turn.

    Args:
        row: with ``question``, ``function`` and, unless no call is right, ``ground_truth``, whose arguments are lists
            of accepted values, ``""`` among them meaning that the argument may be left out.
        dots: what becomes of dots in function names: OpenAI's rules for names forbid them, ``"underscore"`` replaces
            them in the tools and in the expected calls alike.

    Raises:
        ValueError: if the row lacks a part or has several turns.
    """
    for key in ("question", "function"):
        if not row.get(key):
            raise ValueError(f"a row of BFCL needs {key!r}; this one has {', '.join(map(repr, row)) or 'nothing'}")
    question = row["question"]
    turns = question if isinstance(question[0], list) else [question]
    if len(turns) != 1:
        raise ValueError(f"question has {len(turns)} turns; only rows of one turn are supported")
    functions = row["function"] if isinstance(row["function"], list) else [row["function"]]
    tools = [_openai_tool(function, dots) for function in functions]
    expected = []
    for truth in row.get("ground_truth") or []:
        if not isinstance(truth, dict) or len(truth) != 1:
            raise ValueError(f"each entry of ground_truth must be {{function: arguments}}, found {truth!r}")
        ((name, arguments),) = truth.items()
        expected.append(ExpectedCall(_renamed(name, dots), arguments, any_of=True))
    messages = [Message(role=turn["role"], content=turn["content"]) for turn in turns[0]]
    return ToolCase(messages, tools, expected, str(row.get("id", "")), loose_strings=True)


def _openai_tool(function: Mapping[str, Any], dots: str) -> dict[str, Any]:
    schema = {**function, "name": _renamed(function["name"], dots)}
    if isinstance(schema.get("parameters"), dict):
        schema["parameters"] = json_schema(schema["parameters"])
    return {"type": "function", "function": schema}


def _renamed(name: str, dots: str) -> str:
    return name.replace(".", "_") if dots == "underscore" else name


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of a Berkeley row in the words of JSON Schema: ``dict`` becomes ``object``, ``float`` ``number``."""
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str):
            name = _SCHEMA_TYPES.get(value.lower(), value)
            if name is not None:
                out[key] = name
        elif key == "properties" and isinstance(value, dict):
            out[key] = {name: json_schema(v) if isinstance(v, dict) else v for name, v in value.items()}
        elif isinstance(value, dict) and key in ("items", "additionalProperties"):
            out[key] = json_schema(value)
        else:
            out[key] = value
    return out
