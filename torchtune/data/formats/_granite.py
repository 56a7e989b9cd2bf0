"""Granite 4: the syntax of Hermes with roles in tokens of their own.

Source: the ``chat_template`` of the models' ``tokenizer_config.json``.
"""

from __future__ import annotations

from ._qwen import ChatML
from ._write import Chat, Turn, Writer

_TOOLS_HEAD = (
    "You are a helpful assistant with access to the following tools. You may call one or more tools to assist with the "
    "user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_TOOLS_FOOT = (
    "</tools>\n\nFor each tool call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>. If a tool does not exist in the provided '
    "list of tools, notify the user that you do not have the ability to fulfill the request."
)
_DEFAULT = "You are a helpful assistant. Please ensure responses are professional, accurate, and safe."


class Granite4(ChatML):
    """Granite 4.0."""

    name = "granite4"
    stop = ("<|end_of_text|>",)
    controls = ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<tool_call>", "</tool_call>")
    role_tags = ("<|start_of_role|>", "<|end_of_role|>")
    end_token = "<|end_of_text|>"
    tools_head, tools_foot = _TOOLS_HEAD, _TOOLS_FOOT

    def write_system(self, w: Writer, chat: Chat, system: Turn | None) -> None:
        if system is None and not chat.tools:
            w.lit(f"{self.header('system')}{_DEFAULT}{self.end_token}\n")
            return
        super().write_system(w, chat, system)
