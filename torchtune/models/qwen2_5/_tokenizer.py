"""The tokenizer of Qwen 2.5."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from torchtune.models.qwen2._tokenizer import QWEN2_SPECIAL_TOKENS, Qwen2Tokenizer
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens

if TYPE_CHECKING:
    from torchtune.data._message import Message

QWEN2_5_SPECIAL_TOKENS = {
    **QWEN2_SPECIAL_TOKENS,
    **{
        text: 151646 + i
        for i, text in enumerate(
            (
                *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
                *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
                *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
                *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
            )
        )
    },
}

_OWN_TAG = re.compile("(</?(?:tool_call|think)>)")
_RESULT_BLOCK = re.compile("(<tool_response>)(\n.*\n)(</tool_response>)", re.DOTALL)


class Qwen2_5Tokenizer(Qwen2Tokenizer):
    """Tokenizer of Qwen 2.5: that of Qwen 2, with tags around hand-made calls and results.

    For its arguments see :class:`~torchtune.models.qwen2.Qwen2Tokenizer`.
    """

    default_format = "qwen2_5"
    family_tokens: ClassVar[dict[str, int]] = QWEN2_5_SPECIAL_TOKENS

    @property
    def tool_call_start_id(self) -> int:
        """Id of the tag before a call."""
        return self._id("<tool_call>")

    @property
    def tool_call_end_id(self) -> int:
        """Id of the tag after a call."""
        return self._id("</tool_call>")

    def _add_content(self, chat: ChatTokens, index: int, message: Message) -> None:
        is_call = message.role == "assistant" and message.ipython
        if is_call:
            chat.add(self._tag("<tool_call>", after="\n"), index, True, "call")
        super()._add_content(chat, index, message)
        if is_call:
            chat.add(self._tag("</tool_call>", before="\n"), index, True, "call")

    def _add_result(self, chat: ChatTokens, index: int, messages: list[Message]) -> None:
        """Writes a hand-made tool result; a run of them is one user turn."""
        goes_on = index > 0 and messages[index - 1].role == "ipython"
        chat.add(self._encode_text("\n") if goes_on else self._header("user"), index, False, "header")
        chat.add(self._tag("<tool_response>", after="\n"), index, False, "result")
        self._add_content(chat, index, messages[index])
        chat.add(self._tag("</tool_response>", before="\n"), index, False, "result")
        if messages[index + 1 : index + 2] == [] or messages[index + 1].role != "ipython":
            self._add_end(chat, index, False)

    def _encode_content(self, text: str, message: Message) -> list[int]:
        """Ids of the text of a message, in which hand-made tags are the tokens that the model knows.

        In an assistant message these are the tags that the model itself emits. A user message that is nothing but a
        result between tags is a hand-made tool result. No other text becomes a tag, and none a turn's control token.
        """
        if message.role == "assistant":
            pieces = _OWN_TAG.split(text)
        elif message.role == "user" and (block := _RESULT_BLOCK.fullmatch(text)):
            pieces = ["", block[1], block[2], block[3]]
        else:
            pieces = [text]
        ids: list[int] = []
        plain = ""
        for at, piece in enumerate(pieces):
            if at % 2 and piece in self.special_tokens:
                ids += [*self._encode_text(plain), self.special_tokens[piece]]
                plain = ""
            else:
                plain += piece
        return ids + self._encode_text(plain)

    def _tag(self, tag: str, before: str = "", after: str = "") -> list[int]:
        """A tag with the white space beside it; plain text where the vocabulary has no token for it."""
        if tag not in self.special_tokens:
            return self._encode_text(before + tag + after)
        return [*self._encode_text(before), self.special_tokens[tag], *self._encode_text(after)]
