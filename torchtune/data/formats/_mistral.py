"""The Mistral families with tools: tokenizer versions 3, 7, 11 and 13.

Source: the chat templates that mistral-common generates for its own tokenizer versions. Each version is a small difference
from the one before it.
"""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any, ClassVar

from torchtune.data._message import ToolCall

from ._base import ChatFormat, Option, ParsedMessage, UnparsedCall
from ._hermes_style import result_text
from ._read import BadCall, Draft, Source, call_from, decode_json, read_call_list, read_thinking
from ._write import NO_VALUE, Chat, Turn, Writer, dumps

_CALLS, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
#: Role -> the roles that may follow; "" is the start.
_FOLLOWS = {
    "": ("system", "user"),
    "system": ("system", "user", "assistant"),
    "user": ("system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("user", "assistant", "tool"),
}
_NINE = re.compile(r"[a-zA-Z0-9]{9}\Z")


class MistralV3(ChatFormat):
    """Version 3: tools and system text stand at the last user message; calls are a JSON list, without text beside them."""

    name = "mistral_v3"
    stop: tuple[str, ...] = ("</s>",)
    controls: tuple[str, ...] = (
        *("<s>", "</s>", "[INST]", "[/INST]", _CALLS),
        *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    )
    rewrites_history = True
    options: ClassVar[dict[str, Option]] = {
        "call_ids": Option(
            "strict",
            ("strict", "derive"),
            "An id has nine letters or digits. strict refuses others; derive makes such an id of any, and of none.",
        ),
        "results": Option(
            "template", ("template", "json"), "json writes JSON results as JSON, as mistral-common's own encoder does."
        ),
    }
    #: Stands between a control token and the text behind it.
    space: str = " "
    #: True if text may stand beside calls.
    text_and_calls: bool = False
    #: True if system messages have a block of their own.
    system_block: bool = False
    #: True if the tools stand at the first user message rather than the last.
    tools_first: bool = False
    #: True if calls and results carry ids.
    has_ids: bool = True

    def write(self, w: Writer, chat: Chat) -> None:
        systems = [] if self.system_block else [turn for turn in chat.turns if turn.role == "system"]
        turns = [turn for turn in chat.turns if turn not in systems]
        users = [turn for turn in turns if turn.role == "user"]
        if not users and (systems or chat.tools):
            raise self.refuse(None, "the system text and tools stand at a user message, and there is none", "Add one.")
        ids = self._ids(chat)
        w.lit("<s>")
        runs = self._runs(turns)
        user_runs = [run for run in runs if run[0].role == "user"]
        previous, spoken = "", False
        for run in runs:
            role = run[0].role
            if role not in _FOLLOWS[previous]:
                raise self.refuse(
                    run[0],
                    f"found {role} after {previous or 'the start'}",
                    f"There the template takes {' or '.join(_FOLLOWS[previous])}.",
                )
            w.turn(run[0])
            if role == "user":
                if chat.tools and run is user_runs[0 if self.tools_first else -1]:
                    w.weave(None, f"[AVAILABLE_TOOLS]{self.space}", dumps(chat.tools), "[/AVAILABLE_TOOLS]")
                w.lit("[INST]" + self.space, "header")
                # User messages in a row are one, as are system messages; the system text stands first.
                _write_joined(w, [*(systems if run is user_runs[-1] else []), *run])
                w.lit("[/INST]", "header")
            elif role == "assistant":
                w.sampled = True
                self.write_answer(w, run, ids, space=self.space if spoken else "")
                w.end("</s>")
            elif role == "tool":
                w.lit("[TOOL_RESULTS]" + self.space, "header")
                self.write_result(w, run[0], chat.options, ids)
                w.lit("[/TOOL_RESULTS]", "header")
            else:
                w.lit("[SYSTEM_PROMPT]" + self.space, "header")
                w.content(run[0].pieces)
                w.lit("[/SYSTEM_PROMPT]", "header")
            previous = role
            spoken = spoken or role != "system"

    def write_answer(self, w: Writer, run: list[Turn], ids: dict[int, str], space: str) -> None:
        """Assistant messages in a row, which are one turn, without the end token."""
        calls = [turn for turn in run if turn.calls]
        texts = run if len(run) > 1 or not calls or run[0].text.strip() else []
        if calls and any(turn.text.strip() for turn in run) and not self.text_and_calls:
            raise self.refuse(
                calls[0],
                f"found text beside the call of {calls[0].calls[0].name!r}, which this version cannot write",
                "Drop the text, or use mistral_v7 or later.",
            )
        if texts and not (calls and not self.text_and_calls):
            _own(w, texts[0])
            w.lit(space, "content")
            _write_joined(w, texts)
        self.write_calls(w, calls, ids)

    def write_calls(self, w: Writer, turns: list[Turn], ids: dict[int, str]) -> None:
        """All calls of a turn, as one JSON list."""
        if not turns:
            return
        _own(w, turns[0])
        w.lit(_CALLS + self.space + "[", "call")
        for at, turn in enumerate(turns):
            _own(w, turn)
            objects = [dumps({"name": c.name, "arguments": c.arguments, "id": ids[id(c)]}) for c in turn.calls]
            w.text(", " * (at > 0) + ", ".join(objects), "call")
        w.lit("]", "call")

    def write_result(self, w: Writer, turn: Turn, options: SimpleNamespace, ids: dict[int, str]) -> None:
        """The inside of a tool result."""
        content = _as_json(turn) if options.results == "json" else _as_number(result_text(turn, python=True))
        w.text(dumps({"content": content, "call_id": ids[id(turn)]}), "result")

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        at = source.find(_CALLS)
        draft.texts.append(source.rest(0, at if at >= 0 else None).removeprefix(self.space))
        if at >= 0:
            self.read_calls(source, at, draft)
        return draft.done(source)

    def read_calls(self, source: Source, at: int, draft: Draft) -> None:
        """The JSON list of calls at ``at``."""
        end = read_call_list(source, at, _CALLS, draft)
        if source.rest(end).strip():
            draft.texts.append(source.rest(end))

    def _runs(self, turns: list[Turn]) -> list[list[Turn]]:
        """Turns in groups: user and assistant messages in a row count as one."""
        runs: list[list[Turn]] = []
        for turn in turns:
            if runs and turn.role in ("user", "assistant") and runs[-1][0].role == turn.role:
                runs[-1].append(turn)
            else:
                runs.append([turn])
        return runs

    def _ids(self, chat: Chat) -> dict[int, str]:
        """The id of each call and each result, by the object's identity."""
        ids: dict[int, str] = {}
        if not self.has_ids:
            return ids
        answered, count = chat.answered(), 0
        for at, turn in enumerate(chat.turns):
            for call in turn.calls:
                ids[id(call)] = self._nine(turn, call.id, count, chat.options.call_ids)
                count += 1
            if at in answered:
                ids[id(turn)] = ids[id(answered[at])]
            elif turn.role == "tool":
                ids[id(turn)] = self._nine(turn, turn.call_id, count, chat.options.call_ids)
        return ids

    def _nine(self, turn: Turn, given: str | None, count: int, rule: str) -> str:
        if given is not None and _NINE.match(given):
            return given
        if rule == "strict":
            raise self.refuse(
                turn,
                f"found the call id {given!r}, expected nine letters or digits",
                'Pass the option call_ids="derive" to have such ids made.',
            )
        return _derived(given if given is not None else f"call {count}")


class MistralV3Tekken(MistralV3):
    """Version 3 with Tekken in place of SentencePiece: no spaces behind control tokens."""

    name = "mistral_v3_tekken"
    space = ""


class MistralV7(MistralV3):
    """Version 7: a system block, text before calls, and results that name their call before the content."""

    name = "mistral_v7"
    controls: tuple[str, ...] = (
        *MistralV3.controls,
        *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
    )
    system_block = True
    text_and_calls = True

    def write_result(self, w: Writer, turn: Turn, options: SimpleNamespace, ids: dict[int, str]) -> None:
        if self.has_ids:
            w.text(ids[id(turn)], "result")
            w.lit("[TOOL_CONTENT]" + self.space, "result")
        w.text(result_text(turn, python=options.results == "template"), "result")


class MistralV7Tekken(MistralV7):
    """Version 7 with Tekken: no spaces behind control tokens."""

    name = "mistral_v7_tekken"
    space = ""


class MistralV11(MistralV7Tekken):
    """Version 11: each call on its own, as name, id and arguments."""

    name = "mistral_v11"
    controls = (*MistralV7.controls, _ID, _ARGS)

    def write_calls(self, w: Writer, turns: list[Turn], ids: dict[int, str]) -> None:
        for turn in turns:
            _own(w, turn)
            for call in turn.calls:
                w.lit(_CALLS, "call")
                w.text(call.name, "call")
                if self.has_ids:
                    w.lit(_ID, "call")
                    w.text(ids[id(call)], "call")
                w.lit(_ARGS, "call")
                w.text(dumps(call.arguments), "call")

    def read_calls(self, source: Source, at: int, draft: Draft) -> None:
        while at >= 0:
            following = source.find(_CALLS, at + 1)
            try:
                call, end = self._read_call(source, at + len(_CALLS), following)
                draft.calls.append(call)
                rest = source.rest(end, following if following >= 0 else None)
                if rest.strip():
                    draft.texts.append(rest)
            except BadCall as error:
                text = source.rest(at, following if following >= 0 else None)
                draft.unparsed.append(UnparsedCall(text, str(error)))
            at = following

    def _read_call(self, source: Source, at: int, following: int) -> tuple[ToolCall, int]:
        args = source.find(_ARGS, at)
        if args < 0 or 0 <= following < args:
            raise BadCall(f"expected {_ARGS} after the function's name, found none")
        marked = source.find(_ID, at)
        has_id = 0 <= marked < args
        name = source.rest(at, marked if has_id else args).strip()
        value, end = decode_json(source.text, source.skip_space(args + len(_ARGS)))
        call = call_from({"name": name, "arguments": value})
        call.id = source.rest(marked + len(_ID), args).strip() if has_id else None
        return call, end


class MistralV13(MistralV11):
    """Version 13: tools at the first user message, reasoning in ``[THINK]``, and no ids."""

    name = "mistral_v13"
    controls = (*MistralV11.controls, "[THINK]", "[/THINK]")
    rewrites_history = False
    writes_reasoning = True
    options: ClassVar[dict[str, Option]] = {"results": MistralV3.options["results"]}
    tools_first = True
    has_ids = False

    def write_answer(self, w: Writer, run: list[Turn], ids: dict[int, str], space: str) -> None:
        for at, turn in enumerate(run):
            _own(w, turn)
            if turn.reasoning:
                w.weave("reasoning", "[THINK]", turn.reasoning, "[/THINK]")
            elif at:
                w.text("\n\n")
            w.content(turn.pieces)
        self.write_calls(w, [turn for turn in run if turn.calls], ids)

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        start = read_thinking(source, draft, "[THINK]", "[/THINK]", trim="")
        at = source.find(_CALLS, start)
        draft.texts.append(source.rest(start, at if at >= 0 else None))
        if at >= 0:
            self.read_calls(source, at, draft)
        return draft.done(source)


def _own(w: Writer, turn: Turn) -> None:
    w.turn(turn)
    w.sampled = True


def _write_joined(w: Writer, turns: list[Turn]) -> None:
    """The texts of several turns, an empty line between them."""
    sampled = w.sampled
    for at, turn in enumerate(turns):
        w.turn(turn)
        w.sampled = sampled
        w.text("\n\n" * (at > 0))
        w.content(turn.pieces)


def _as_number(text: str) -> Any:
    """The number that a text spells exactly as Python prints it; else the text. The template of version 3 does this."""
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            continue
    return text


def _as_json(turn: Turn) -> Any:
    """A result as the JSON value that it is or spells; other text as text."""
    if turn.value is not NO_VALUE:
        return turn.value
    try:
        return json.loads(turn.text) if turn.text else {}
    except ValueError:
        return turn.text


def _derived(given: str) -> str:
    """Nine letters or digits that any id always maps to."""
    import hashlib
    import string

    alphabet = string.ascii_letters + string.digits
    number = int.from_bytes(hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return "".join(alphabet[number // len(alphabet) ** place % len(alphabet)] for place in range(9))
