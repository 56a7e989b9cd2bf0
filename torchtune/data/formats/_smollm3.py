"""SmolLM 3: a system block with metadata, tools printed as Python, results as user turns.

Source: the ``chat_template`` of the model's ``tokenizer_config.json``.
"""

from __future__ import annotations

from typing import ClassVar

from ._base import Option
from ._hermes_style import result_text
from ._qwen import END, START, ChatML, Qwen3, write_thought
from ._write import Chat, Turn, Writer

_WHO = "You are a helpful AI assistant named SmolLM, trained by Hugging Face."
_THINK = (
    " Your role as an assistant involves thoroughly exploring questions through a systematic thinking process before "
    "providing the final precise and accurate solutions. This requires engaging in a comprehensive cycle of analysis, "
    "summarizing, exploration, reassessment, reflection, backtracking, and iteration to develop well-considered thinking "
    "process. Please structure your response into two main sections: Thought and Solution using the specified format: "
    "<think> Thought section </think> Solution section. In the Thought section, detail your reasoning process in steps. "
    "Each step should include detailed considerations such as analysing questions, summarizing relevant findings, "
    "brainstorming new ideas, verifying the accuracy of the current steps, refining any errors, and revisiting previous "
    "steps. In the Solution section, based on various attempts, explorations, and reflections from the Thought section, "
    "systematically present the final solution that you deem correct. The Solution section should be logical, accurate, "
    "and concise and detail necessary steps needed to reach the conclusion."
)
_TOOLS_HEAD = (
    "### Tools\n\nYou may call one or more functions to assist with the user query.\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n\n<tools>\n"
)
_TOOLS_FOOT = (
    "</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>\n\n'
)
_EMPTY = "<think>\n\n</think>\n"


class SmolLM3(ChatML):
    """SmolLM 3.

    Its template describes the syntax of a call in the system block and then drops the calls; here they are written in that
    syntax. It writes no ``reasoning_content``: thoughts belong into the content, in ``<think>`` tags.
    """

    name = "smollm3"
    stop = (END, "<|end_of_text|>")
    controls = (
        *(START, END, "<|end_of_text|>", "<think>", "</think>"),
        *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    )
    options: ClassVar[dict[str, Option]] = {
        "enable_thinking": Option(True, bool, "False sets /no_think, unless the system text says otherwise."),
        "date_string": Option("26 July 2024", str, "Today's date, as the system block writes it."),
    }

    def write(self, w: Writer, chat: Chat) -> None:
        chat.refuse_late_system(self)
        super().write(w, chat)

    def thinks(self, chat: Chat) -> bool:
        """The reasoning mode: the system text's flag, else the option."""
        system = chat.split_system()[0]
        if system is not None and "/no_think" in system.text:
            return False
        if system is not None and "/think" in system.text:
            return True
        return bool(chat.options.enable_thinking)

    def write_system(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        thinks = self.thinks(chat)
        text = system.text if system else ""
        custom = text.replace("/no_think", "").replace("/think", "").rstrip()
        w.turn(system)
        w.lit(f"{START}system\n", "header" if system else None)
        if "/system_override" in text:
            w.text(custom.replace("/system_override", "").rstrip())
            w.end(END, "\n")
            if chat.tools:
                raise self.refuse(system, "/system_override leaves no place for tools", "Drop the flag or the tools.")
            return
        w.lit(
            f"## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: {chat.options.date_string}\n"
            f"Reasoning Mode: {'/think' if thinks else '/no_think'}\n\n## Custom Instructions\n\n"
        )
        if custom:
            w.text(custom)
        else:
            w.lit(_WHO + (_THINK if thinks else ""))
        w.lit("\n\n")
        if chat.tools:
            w.weave(None, _TOOLS_HEAD, "".join(f"{tool}\n" for tool in chat.tools), _TOOLS_FOOT)
            w.lit(END, "end" if system else None)
            w.lit("\n")

    def write_answer(self, w: Writer, chat: Chat, turn: Turn, at: int) -> None:
        if not self.thinks(chat):
            write_thought(w, "", _EMPTY, closing="\n</think>\n")
        content = turn.text.lstrip("\n")
        w.text(content)
        self.write_calls(w, turn, "\n" if content else "")

    def write_result(self, w: Writer, turn: Turn, opens: bool, closes: bool, last: bool) -> None:
        w.turn(turn)
        w.lit(f"{START}user\n", "header")
        w.text(result_text(turn), "result")
        w.end(END, "\n")

    def write_prompt(self, w: Writer, chat: Chat) -> None:
        super().write_prompt(w, chat)
        w.lit("" if self.thinks(chat) else _EMPTY, "reasoning")

    read = Qwen3.read
