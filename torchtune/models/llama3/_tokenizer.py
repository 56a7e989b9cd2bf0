"""The tokenizer of Llama 3, 3.1, 3.2 and 3.3. Source of the ids: Meta's llama-models, ``llama3/tokenizer.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

from torchtune.modules.common_utils import passed_on
from torchtune.modules.transforms.tokenizers import TikTokenBaseTokenizer
from torchtune.modules.transforms.tokenizers._bpe import share_by_start
from torchtune.modules.transforms.tokenizers._chat import ChatTokenizer, speech
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens

if TYPE_CHECKING:
    from torchtune.data._message import Message
    from torchtune.data.formats import Segment

CL100K_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPECIAL_TOKENS = {
    "<|begin_of_text|>": 128000,
    "<|end_of_text|>": 128001,
    "<|reserved_special_token_0|>": 128002,
    "<|reserved_special_token_1|>": 128003,
    "<|finetune_right_pad_id|>": 128004,
    "<|step_id|>": 128005,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eom_id|>": 128008,
    "<|eot_id|>": 128009,
    "<|python_tag|>": 128010,
    "<|image|>": 128256,
    "<|video|>": 128012,
    "<|reserved_special_token_245|>": 128011,
}
NUM_RESERVED_SPECIAL_TOKENS = 257
RESERVED_TOKENS = {
    f"<|reserved_special_token_{2 + i}|>": 128013 + i for i in range(NUM_RESERVED_SPECIAL_TOKENS - len(SPECIAL_TOKENS))
}
LLAMA3_SPECIAL_TOKENS = {**SPECIAL_TOKENS, **RESERVED_TOKENS}


class TikTokenChatTokenizer(ChatTokenizer):
    """The families of Llama 3 and later: a tiktoken vocabulary, and turns behind a header of role and blank line."""

    #: Ids of the family's control tokens by their text.
    family_tokens: ClassVar[dict[str, int]]
    #: The control tokens by what they are for; each gives an attribute of this name and must be in the vocabulary.
    control_tokens: ClassVar[dict[str, str]]
    encoding_name: ClassVar[str]
    pattern: ClassVar[str]
    #: Headers and control tokens, as decoded text shows them.
    special_text: ClassVar[re.Pattern[str]]
    pad_id: int
    start_header_id: int
    end_header_id: int
    eot_id: int
    eom_id: int

    def __init__(
        self,
        path: str,
        special_tokens: dict[str, int] | None = None,
        max_seq_len: int | None = None,
        prompt_template: Any = None,
        truncation_type: str = "right",
        *,
        chat_format: str | None = None,
        train_on: str = "message",
        format_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.special_tokens = self.family_tokens if special_tokens is None else special_tokens
        for name, text in self.control_tokens.items():
            if text not in self.special_tokens:
                raise ValueError(f"{text} missing from special_tokens")
            setattr(self, name, self.special_tokens[text])
        self.stop_tokens = [self.eos_id, self.eot_id, self.eom_id]
        self._headers: dict[str, list[int]] = {}
        self.tt_model = TikTokenBaseTokenizer(
            path=path,
            name=self.encoding_name,
            pattern=self.pattern,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            special_tokens=self.special_tokens,
        )
        self._setup_chat(max_seq_len, prompt_template, truncation_type, chat_format, train_on, format_options)

    base_vocab_size = passed_on("tt_model.base_vocab_size", "Number of tokens in the vocabulary file.")
    vocab_size = passed_on("tt_model.vocab_size", "Number of tokens, control tokens included.")

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The token ids of a text as plain text, whatever it looks like; the empty text gives none at all."""
        return self.tt_model.encode(text=text, add_bos=add_bos, add_eos=add_eos)

    def decode(  # type: ignore[override]
        self, token_ids: list[int], truncate_at_eos: bool = True, skip_special_tokens: bool = True
    ) -> str:
        """The text of token ids.

        Args:
            truncate_at_eos: True to stop before the first EOS.
            skip_special_tokens: True to leave out headers, and all that looks like a control token.
        """
        text = self.tt_model.decode(token_ids, truncate_at_eos=truncate_at_eos)
        return self.special_text.sub("", text) if skip_special_tokens else text

    def tokenize_message(
        self, message: Message, add_start_tokens: bool = True, add_end_tokens: bool = True
    ) -> list[int]:
        """The token ids of one message in the plain format.

        Args:
            message: the message.
            add_start_tokens: True to put its header before it.
            add_end_tokens: True to end it, as its ``eot`` says.
        """
        chat = ChatTokens()
        self._add_message(chat, 0, message, add_start_tokens, add_end_tokens)
        return chat.tokens

    def _add_message(self, chat: ChatTokens, index: int, message: Message, start: bool, end: bool) -> None:
        sampled, part = speech(message)
        if start:
            chat.add(self._header(message.role.strip()), index, False, "header")
        if message.role == "assistant" and message.ipython:
            self._add_call_start(chat, index)
        for item in message.content:
            chat.add(self._encode_item(item, index), index, sampled, part)
        if message.role == "assistant" and message.ipython:
            self._add_call_end(chat, index)
        if end:
            chat.add([self.eot_id if message.eot else self.eom_id], index, message.role == "assistant", "end")

    def _header(self, role: str) -> list[int]:
        """Ids of a message's header; there are few roles, so they are encoded once."""
        ids = self._headers.get(role)
        if ids is None:
            ids = [self.start_header_id, *self._encode_text(role), self.end_header_id, *self._encode_text("\n\n")]
            self._headers[role] = ids
        return ids

    def _add_call_start(self, chat: ChatTokens, index: int) -> None:
        """What stands before a hand-made call."""

    def _add_call_end(self, chat: ChatTokens, index: int) -> None:
        """What stands after a hand-made call."""

    def _encode_item(self, item: dict[str, Any], index: int) -> list[int]:
        if item["type"] == "text":
            return self._encode_text(item["content"].strip())
        raise ValueError(
            f"Message {index} holds content of type {item['type']!r}, which {type(self).__name__} can't encode; "
            "expected text."
        )

    def _plain_chat(self, messages: list[Message], add_end_tokens: bool, **options: Any) -> ChatTokens:
        chat = ChatTokens([], [])
        chat.add([self.bos_id], None, False, None)
        for index, message in chat.fill(messages, self.max_seq_len):
            self._add_message(chat, index, message, True, add_end_tokens or index < len(messages) - 1)
        if add_end_tokens:
            chat.add([self.eos_id], None, False, "end")
        return chat

    def _encode_text(self, text: str) -> list[int]:
        return self.tt_model.encode_plain(text)

    def _encode_parts(self, texts: Sequence[str]) -> list[list[int]]:
        ids = self._encode_text("".join(texts))
        lengths = map(len, self.tt_model.tt_model.decode_tokens_bytes(ids))
        starts = list(accumulate(lengths, initial=0))
        return share_by_start(starts[:-1], ids, (len(text.encode()) for text in texts))

    def _decode_text(self, ids: list[int]) -> str:
        return self.tt_model.tt_model.decode(ids)


class Llama3Tokenizer(TikTokenChatTokenizer):
    """Tokenizer of Llama 3, 3.1, 3.2 and 3.3.

    Args:
        path: the ``tokenizer.model`` in tiktoken's form.
        special_tokens: ids of the control tokens by their text; Llama 3.1's by default.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: words put around the messages, or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        chat_format: None writes plain conversations as torchtune always has, and the official format where a sample has
            tools or calls; "official", or the name of a format, writes all in the official format.
        train_on: "message" trains all of a message, its header included; "sampled" only what the model emits.
        format_options: options of the official format, such as ``date_string``.

    Raises:
        ValueError: if a control token is missing from ``special_tokens``, or an option has no such value.
        FileNotFoundError: if ``path`` does not exist.
    """

    default_format = "llama3_1"
    cuts_at_newlines = True
    family_tokens = LLAMA3_SPECIAL_TOKENS
    encoding_name = "llama3_tiktoken"
    pattern = CL100K_PATTERN
    special_text = re.compile(r"<\|start_header_id\|>.*?<\|end_header_id\|>\n\n|<\|.*?\|>")
    control_tokens: ClassVar[dict[str, str]] = {
        "bos_id": "<|begin_of_text|>",
        "eos_id": "<|end_of_text|>",
        "pad_id": "<|finetune_right_pad_id|>",
        "step_id": "<|step_id|>",
        "start_header_id": "<|start_header_id|>",
        "end_header_id": "<|end_header_id|>",
        "eot_id": "<|eot_id|>",
        "eom_id": "<|eom_id|>",
        "python_tag": "<|python_tag|>",
        "image_id": "<|image|>",
    }

    python_tag: int
    image_id: int

    def _add_call_start(self, chat: ChatTokens, index: int) -> None:
        chat.add([self.python_tag], index, True, "call")

    def _encode_item(self, item: dict[str, Any], index: int) -> list[int]:
        return [self.image_id] if item["type"] == "image" else super()._encode_item(item, index)

    def _encode_media(self, segment: Segment) -> list[int]:
        return [self.image_id]
