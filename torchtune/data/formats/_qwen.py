"""ChatML and the Qwen families that write calls as JSON in ``<tool_call>`` tags: Qwen 2, 2.5, 3 and 3-2507-Instruct.

Sources: the ``chat_template`` of each model's ``tokenizer_config.json``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from ._base import ChatFormat, Option, ParsedMessage
from ._hermes_style import TOOLS_FOOT, TOOLS_HEAD, call_json, result_text
from ._plain import PlainFormat
from ._read import Draft, Source, read_tagged_calls, read_thinking
from ._write import Chat, Turn, Writer, dumps_schema

START, END = "<|im_start|>", "<|im_end|>"
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


class Qwen2(PlainFormat):
    """Qwen 2: ChatML with a default system prompt, and no tools."""

    name = "qwen2"
    stop = (END, "<|endoftext|>")
    controls = (START, END, "<|endoftext|>")
    headers: ClassVar[dict[str, str]] = {role: f"{START}{role}\n" for role in ("system", "user", "assistant")}
    end_token, after = END, "\n"
    default_system = "You are a helpful assistant."


class SmolLM2(Qwen2):
    """SmolLM 2: as Qwen 2, with a system prompt of its own."""

    name = "smollm2"
    default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


class ChatML(ChatFormat):
    """ChatML with calls in ``<tool_call>`` tags, and no default system prompt.

    The tags are plain text here, since ChatML as such has no tokens for them.
    """

    name = "chatml"
    stop: tuple[str, ...] = (END,)
    controls: tuple[str, ...] = (START, END)
    #: True where the template prints a JSON result as Python does.
    python_results: bool = False
    #: What stands around a role, and the end token.
    role_tags: tuple[str, str] = (START, "\n")
    end_token: str = END
    #: What stands behind the user's role before a result, before it, and behind it.
    result_tags: tuple[str, str, str] = ("", "\n<tool_response>\n", "\n</tool_response>")
    #: What stands before the description of tools, and behind it.
    tools_head: str = TOOLS_HEAD
    tools_foot: str = TOOLS_FOOT

    def header(self, role: str) -> str:
        """What stands before a turn's text."""
        return f"{self.role_tags[0]}{role}{self.role_tags[1]}"

    def write(self, w: Writer, chat: Chat) -> None:
        system, turns = chat.split_system()
        self.write_system(w, chat, system)
        first = len(chat.turns) - len(turns)
        for at, turn in enumerate(turns, first):
            if turn.role == "tool":
                previous = chat.turns[at - 1].role if at else ""
                following = chat.turns[at + 1].role if at + 1 < len(chat.turns) else ""
                self.write_result(w, turn, previous != "tool", following != "tool", last=not following)
                continue
            w.turn(turn)
            w.lit(self.header(turn.role), "header")
            if turn.role == "assistant":
                w.sampled = True
                self.write_answer(w, chat, turn, at)
            else:
                self.write_text(w, turn)
            w.end(self.end_token, "\n")

    def write_text(self, w: Writer, turn: Turn) -> None:
        """The text of a turn that is not the assistant's."""
        w.content(turn.pieces)

    def write_system(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        """The system turn, where there is one, or a default, or tools."""
        if system is None and self.default_system is None and not chat.tools:
            return
        w.turn(system)
        w.lit(self.header("system"), "header" if system else None)
        self.write_system_text(w, chat, system)
        w.lit(self.end_token, "end" if system else None)
        w.lit("\n")

    def write_system_text(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        """The text of the system turn or the default, then the tools."""
        default = self.default_system if system is None else None
        if system is not None:
            w.content(system.pieces)
        if not chat.tools:
            w.lit(default or "")
        else:
            w.lit((default or "") + ("\n\n" if system or default else "") + self.tools_head)
            # Each with its line break, so that a tokenizer encodes the same tool once, whatever stands behind it.
            for tool in chat.tools:
                w.text(dumps_schema(tool) + "\n", None)
            w.lit(self.tools_foot)

    def write_answer(self, w: Writer, chat: Chat, turn: Turn, at: int) -> None:
        """An assistant turn between its header and its end token."""
        w.content(turn.pieces)
        self.write_calls(w, turn, "\n" if turn.text else "")

    def write_calls(self, w: Writer, turn: Turn, before: str) -> None:
        """The calls of a turn, each on lines of its own; ``before`` stands before the first one."""
        for call in turn.calls:
            w.weave("call", f"{before}<tool_call>\n", call_json(call.name, call.arguments), "\n</tool_call>")
            before = "\n"

    def write_result(self, w: Writer, turn: Turn, opens: bool, closes: bool, last: bool) -> None:
        """A tool result. A run of them is one user turn, which the first opens and the last one closes."""
        after, opening, closing = self.result_tags
        w.turn(turn)
        w.lit(self.header("user").rstrip("\n") + after if opens else "", "header")
        w.weave("result", opening, result_text(turn, python=self.python_results), closing)
        if closes:
            w.end(self.end_token, "\n")

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        w.lit(self.header("assistant"), "header")

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        read_tagged_calls(source, 0, draft)
        return draft.done(source)


class Qwen2_5(ChatML):
    """Qwen 2.5: a default system prompt, and ``<tool_call>`` in the vocabulary."""

    name = "qwen2_5"
    stop = (END, "<|endoftext|>")
    controls = (START, END, "<|endoftext|>", "<tool_call>", "</tool_call>")
    default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    python_results = True


class Qwen3Instruct(ChatML):
    """Qwen 3 2507 Instruct: no default system prompt, no thinking."""

    name = "qwen3_instruct_2507"
    stop = (END, "<|endoftext|>")
    controls = (*Qwen2_5.controls, "<tool_response>", "</tool_response>", "<think>", "</think>")


class Qwen3(Qwen3Instruct):
    """Qwen 3: thinks before it answers, and drops the thoughts of turns before the last user message."""

    name = "qwen3"
    rewrites_history = True
    writes_reasoning = True
    options: ClassVar[dict[str, Option]] = {
        "enable_thinking": Option(True, bool, "False writes an empty thought into the generation prompt.")
    }

    def write_answer(self, w: Writer, chat: Chat, turn: Turn, at: int) -> None:
        reasoning, content = split_thought(turn)
        last = at == len(chat.turns) - 1
        if at > last_query(chat) and (last or reasoning):
            write_thought(w, reasoning.strip("\n"), "" if chat.options.enable_thinking else EMPTY_THOUGHT)
            content = content.lstrip("\n")
        w.text(content)
        self.write_calls(w, turn, "\n" if content else "")

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        super().write_prompt(w, chat)
        if not chat.options.enable_thinking:
            w.lit(EMPTY_THOUGHT, "reasoning")

    def read(self, source: Source, tools: list[dict[str, Any]], options: SimpleNamespace) -> ParsedMessage:
        draft = Draft()
        read_tagged_calls(source, read_thinking(source, draft), draft)
        return draft.done(source)


def write_thought(
    w: Writer, thought: str, given: str, opening: str = "<think>\n", closing: str = "\n</think>\n\n"
) -> None:
    """A block of thinking. What the generation prompt has ``given`` of it nobody samples: its opening, or an empty block."""
    sampled = w.sampled
    empty = not thought and given == opening + closing
    w.sampled = sampled and not empty and given != opening
    w.lit(opening, "reasoning")
    w.sampled = sampled and not empty
    w.text(thought, "reasoning")
    w.lit(closing, "reasoning")
    w.sampled = sampled


def split_thought(turn: Turn) -> tuple[str, str]:
    """Reasoning and content of an assistant turn; inline ``<think>`` tags in the content count where there is no reasoning.

    Only a block at the start counts: the official template would drop text before it.
    """
    content = turn.text
    if turn.reasoning is not None or "</think>" not in content:
        return turn.reasoning or "", content
    thought, _, rest = content.partition("</think>")
    before, tag, inner = thought.partition("<think>")
    if tag and before.strip():
        return "", content
    return (inner if tag else thought).strip("\n"), rest.lstrip("\n")


def last_query(chat: Chat) -> int:
    """Position of the last user message that is no tool result in disguise; the last turn if there is none."""
    for at in range(len(chat.turns) - 1, -1, -1):
        turn = chat.turns[at]
        wrapped = turn.text.startswith("<tool_response>") and turn.text.endswith("</tool_response>")
        if turn.role == "user" and not wrapped:
            return at
    return len(chat.turns) - 1
