"""The tokenizer of Qwen 2, and what Qwen 2.5 and 3 share with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torchtune.modules.transforms.tokenizers._bpe import ByteLevelBPE
from torchtune.modules.transforms.tokenizers._chat import speech
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens
from torchtune.modules.transforms.tokenizers._gpt2 import ByteLevelChatTokenizer

if TYPE_CHECKING:
    from torchtune.data._message import Message

PRETOKENIZE_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

ENDOFTEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
QWEN2_SPECIAL_TOKENS = {ENDOFTEXT: 151643, IM_START: 151644, IM_END: 151645}
#: Kept for callers: the Rust encoder has a cache of its own.
DEFAULT_QWEN2_TOKENIZER_BPE_CACHE_SIZE = 152064


class Qwen2Tokenizer(ByteLevelChatTokenizer):
    """Tokenizer of Qwen 2.

    Text is brought into Unicode's composed form, and never becomes a control token. For ``truncation_type``, ``chat_format``,
    ``train_on`` and ``format_options`` see :class:`~torchtune.models.llama3.Llama3Tokenizer`.

    Args:
        path: the ``vocab.json``.
        merges_file: the ``merges.txt``.
        special_tokens: ids of the control tokens by their text; the class's own family's by default.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: words put around the messages, or None.
        errors: what to do with bytes that are no UTF-8, as in ``bytes.decode``.
        unk_token: control token for what is unknown, or None.
        bos_token: control token before a text, or None.
        eos_token: control token after a text, or None.
        pad_token: control token to fill with, or None.
        bpe_cache_size: accepted and not used; the encoder's own cache serves.

    Raises:
        OSError: if a file does not exist.
        ValueError: if a control token has no id, or an option has no such value.
        AssertionError: if ``prompt_template`` is ChatML's, which this tokenizer writes by itself.
    """

    default_format = "qwen2"
    cuts_at_newlines = True
    #: The family's control tokens.
    family_tokens: ClassVar[dict[str, int]] = QWEN2_SPECIAL_TOKENS

    def __init__(
        self,
        path: str,
        merges_file: str,
        special_tokens: dict[str, int] = QWEN2_SPECIAL_TOKENS,
        max_seq_len: int | None = None,
        *,
        prompt_template: Any = None,
        errors: str = "replace",
        unk_token: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = IM_END,
        pad_token: str | None = ENDOFTEXT,
        bpe_cache_size: int = DEFAULT_QWEN2_TOKENIZER_BPE_CACHE_SIZE,
        truncation_type: str = "right",
        chat_format: str | None = None,
        train_on: str = "message",
        format_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.special_tokens = self.family_tokens if special_tokens is QWEN2_SPECIAL_TOKENS else special_tokens
        self.errors = errors
        self.unk_id = self._named_id("unk_token", unk_token)
        self.bos_id = self._named_id("bos_token", bos_token)
        self.eos_id = self._named_id("eos_token", eos_token)
        self.pad_id = self._named_id("pad_token", pad_token)
        self.im_start_id: int = self._id(IM_START)
        self.im_end_id: int = self._id(IM_END)
        self.stop_tokens = [token for token in (self.eos_id, self.pad_id) if token is not None]
        self._bpe = ByteLevelBPE(path, merges_file, PRETOKENIZE_REGEX, nfc=True)
        self._newline = self._encode_text("\n")
        self._headers: dict[str, list[int]] = {}
        if type(prompt_template).__name__ == "ChatMLTemplate":
            raise AssertionError(
                f"{type(self).__name__} writes ChatML by itself; expected no ChatMLTemplate as prompt_template."
            )
        self._setup_chat(max_seq_len, prompt_template, truncation_type, chat_format, train_on, format_options)

    def _named_id(self, name: str, text: str | None) -> int | None:
        return None if text is None else self._id(text, name)

    def _id(self, text: str, name: str = "special_tokens") -> int:
        if text not in self.special_tokens:
            raise ValueError(f"{type(self).__name__}: {name} needs {text}, which is missing from special_tokens.")
        return self.special_tokens[text]

    @property
    def base_vocab_size(self) -> int:
        """Number of tokens in the vocabulary file."""
        return self._bpe.size

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return super().decode(token_ids, skip_special_tokens)

    def _plain_chat(self, messages: list[Message], add_end_tokens: bool, **options: Any) -> ChatTokens:
        chat = ChatTokens()
        last = len(messages) - 1
        for index, message in chat.fill(messages, self.max_seq_len):
            if message.role == "ipython":
                self._add_result(chat, index, messages)
            else:
                chat.add(self._header(message.role), index, False, "header")
                self._add_content(chat, index, message)
                if index < last or message.role != "assistant":
                    self._add_end(chat, index, message.role == "assistant")
        if add_end_tokens and self.eos_id is not None:
            chat.add([self.eos_id], last, messages[last].role == "assistant", "end")
        return chat

    def _add_result(self, chat: ChatTokens, index: int, messages: list[Message]) -> None:
        """Writes a hand-made tool result: its bare text."""
        self._add_content(chat, index, messages[index])

    def _add_end(self, chat: ChatTokens, index: int, sampled: bool) -> None:
        chat.add([self.im_end_id], index, sampled, "end")
        chat.add(self._newline, index, False, None)

    def _add_content(self, chat: ChatTokens, index: int, message: Message) -> None:
        owner = speech(message)
        for item in message.content:
            if item["type"] != "text":
                raise ValueError(
                    f"Message {index} holds content of type {item['type']!r}, which {type(self).__name__} can't encode; "
                    "expected text."
                )
            chat.add(self._encode_content(item["content"], message), index, *owner)

    def _encode_content(self, text: str, message: Message) -> list[int]:
        """Ids of the text of a message."""
        return self._encode_text(text)

    def _header(self, role: str) -> list[int]:
        """Ids of a message's header; there are few roles, so they are encoded once."""
        ids = self._headers.get(role)
        if ids is None:
            ids = self._headers[role] = [self.im_start_id, *self._encode_text(role), *self._encode_text("\n")]
        return ids
