"""The tokenizer of Phi 3 mini."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from torchtune.modules.transforms.tokenizers._chat import ChatTokenizer, only_text, speech
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens
from torchtune.modules.transforms.tokenizers._spm_chat import SentencePieceChatTokenizer

if TYPE_CHECKING:
    from torchtune.data._message import Message
    from torchtune.data.formats import Segment

_NAMES = ("endoftext", "assistant", *(f"placeholder{i}" for i in range(1, 5)), "system", "end")
PHI3_SPECIAL_TOKENS = {
    f"<|{name}|>": 32000 + i for i, name in enumerate((*_NAMES, "placeholder5", "placeholder6", "user"))
}


class PhiChatTokenizer(ChatTokenizer):
    """What Phi's tokenizers have in common: conversations stay open by default, and may leave the system prompt out."""

    def tokenize_messages(  # type: ignore[override]
        self,
        messages: list[Message],
        *,
        add_end_tokens: bool = False,
        ignore_system_prompt: bool = False,
        tools: Any = None,
    ) -> tuple[list[int], list[bool]]:
        """Encodes a conversation.

        Args:
            add_end_tokens: True to put the end token after each answer.
            ignore_system_prompt: True to leave the system message out.
        """
        if ignore_system_prompt:
            messages = [message for message in messages if message.role != "system"]
        return super().tokenize_messages(messages, tools=tools, add_end_tokens=add_end_tokens)


class Phi3MiniTokenizer(PhiChatTokenizer, SentencePieceChatTokenizer):
    """Tokenizer of Phi 3 mini. For further arguments see :class:`~torchtune.models.llama3.Llama3Tokenizer`.

    Args:
        path: the SentencePiece model.

    Raises:
        OSError: if ``path`` is no SentencePiece model.
    """

    default_format = "phi3"
    owns_cut_end = False

    def __init__(
        self,
        path: str,
        special_tokens: dict[str, int] | None = None,
        max_seq_len: int | None = None,
        prompt_template: Any = None,
        truncation_type: str = "right",
        **options: Any,
    ) -> None:
        self.special_tokens = PHI3_SPECIAL_TOKENS if special_tokens is None else special_tokens
        super().__init__(path, max_seq_len, prompt_template, truncation_type, **options)

    @property
    def eos_id(self) -> int:
        """Id of the token that ends an answer."""
        return self.special_tokens["<|endoftext|>"]

    pad_id = eos_id

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:  # type: ignore[override]
        texts = {number: text for text, number in self.special_tokens.items()}
        if skip_special_tokens:
            return self._spm_model.decode([number for number in ids if number not in texts])
        return "".join(
            "".join(texts[number] for number in group) if control else self._spm_model.decode(list(group))
            for control, group in groupby(ids, texts.__contains__)
        )

    def _plain_chat(self, messages: list[Message], add_end_tokens: bool, **options: Any) -> ChatTokens:
        """Each message between its role and ``<|end|>``, with BOS before a turn; a tool result is a user message."""
        chat = ChatTokens()
        newline = self._spm_model.encode("\n", add_bos=False, add_eos=False)
        turn_starts = True
        for index, message in chat.fill(messages, self.max_seq_len):
            role = "user" if message.role in ("tool", "ipython") else message.role
            sampled, part = speech(message)
            chat.add([self.bos_id] if turn_starts else [], index, False, "header")
            chat.add([self.special_tokens[f"<|{role}|>"], *newline], index, False, "header")
            for item in message.content:
                text = only_text(item, index, message, self).rstrip(" ")
                ids = self._spm_model.encode(text, add_bos=False, add_eos=False, trim_leading_whitespace=True)
                chat.add(ids, index, sampled, part)
            chat.add([self.special_tokens["<|end|>"]], index, sampled, "end")
            chat.add(newline, index, False, None)
            turn_starts = message.role == "assistant" and add_end_tokens
            if turn_starts:
                chat.add([self.eos_id], index, sampled, "end")
        return chat

    def _control_ids(self) -> Mapping[str, int]:
        return {**self.special_tokens, "<s>": self._spm_model.bos_id, "</s>": self._spm_model.eos_id}

    def _encode_segments(self, segments: Iterable[Segment]) -> ChatTokens:
        """The role and end tokens take the white space behind them with them, as the model's own tokenizer has it."""
        stripped: list[Segment] = []
        behind = False
        for segment in segments:
            if segment.special:
                behind = segment.text != "<|endoftext|>"
            elif behind:
                segment = segment._replace(text=segment.text.lstrip())
                behind = not segment.text
            stripped.append(segment)
        return super()._encode_segments(stripped)
