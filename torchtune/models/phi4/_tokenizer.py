"""The tokenizer of Phi 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchtune.models.llama3._tokenizer import CL100K_PATTERN
from torchtune.models.phi3._tokenizer import PhiChatTokenizer
from torchtune.modules.transforms.tokenizers._bpe import ByteLevelBPE
from torchtune.modules.transforms.tokenizers._chat import speech
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens

if TYPE_CHECKING:
    from torchtune.data._message import Message

__all__ = ["CL100K_PATTERN", "PHI4_SPECIAL_TOKENS", "Phi4Tokenizer"]

PHI4_SPECIAL_TOKENS = {
    "<|dummy_0|>": 100256,
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    **{f"<|dummy_{i}|>": 100260 + i for i in range(1, 4)},
    "<|im_start|>": 100264,
    "<|im_end|>": 100265,
    "<|im_sep|>": 100266,
    "<|endofprompt|>": 100276,
    **{f"<|dummy_{i}|>": 100263 + i for i in range(4, 13)},
    **{f"<|dummy_{i}|>": 100264 + i for i in range(13, 88)},
}


class Phi4Tokenizer(PhiChatTokenizer):
    """Tokenizer of Phi 4.

    Args:
        vocab_path: the ``vocab.json``.
        merges_path: the ``merges.txt``.
        special_tokens: ids of the control tokens by their text; the family's by default.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: words put around the messages, or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        **options: ``chat_format``, ``train_on`` and ``format_options``: see
            :class:`~torchtune.models.llama3.Llama3Tokenizer`.

    Raises:
        OSError: if a file does not exist.
        ValueError: if an option has no such value.
    """

    default_format = "phi4"

    def __init__(
        self,
        vocab_path: str,
        merges_path: str,
        special_tokens: dict[str, int] | None = None,
        max_seq_len: int | None = None,
        prompt_template: Any = None,
        truncation_type: str = "right",
        **options: Any,
    ) -> None:
        self.special_tokens = PHI4_SPECIAL_TOKENS if special_tokens is None else special_tokens
        self.bos_id = self.special_tokens["<|endoftext|>"]
        self.eos_id = self.special_tokens["<|im_end|>"]
        self.pad_id = self.special_tokens["<|dummy_85|>"]
        self.stop_tokens = [self.eos_id]
        self._bpe = ByteLevelBPE(vocab_path, merges_path, CL100K_PATTERN)
        self._setup_chat(
            max_seq_len=max_seq_len, prompt_template=prompt_template, truncation_type=truncation_type, **options
        )

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self._bpe.size, *(number + 1 for number in self.special_tokens.values()))

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Encodes a text as plain text, whatever it looks like.

        Args:
            text: the text.
            add_bos: True to put BOS before it.
            add_eos: True to put EOS after it.

        Returns:
            Token ids.
        """
        ids = self._bpe.encode(text)
        return [*([self.bos_id] if add_bos else []), *ids, *([self.eos_id] if add_eos else [])]

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """Decodes token ids.

        Args:
            token_ids: ids to decode.
            skip_special_tokens: True to leave out control tokens.

        Returns:
            The text.
        """
        segments = self.to_segments(token_ids)
        return "".join(segment.text for segment in segments if not (skip_special_tokens and segment.special))

    def _plain_chat(self, messages: list[Message], add_end_tokens: bool, **options: Any) -> ChatTokens:
        """Each message between its header and ``<|im_end|>``; an answer only has that with ``add_end_tokens``."""
        chat = ChatTokens()
        start, separator = self.special_tokens["<|im_start|>"], self.special_tokens["<|im_sep|>"]
        for index, message in enumerate(messages):
            role = "tool" if message.role == "ipython" else message.role
            sampled, part = speech(message)
            chat.add([start, *self._encode_text(role), separator], index, False, "header")
            for item in message.content:
                if item["type"] != "text":
                    raise ValueError(
                        f"Message {index} ({message.role}) holds content of type {item['type']!r}; Phi4Tokenizer encodes "
                        "text only."
                    )
                chat.add(self._encode_text(item["content"].rstrip(" ")), index, sampled, part)
            if add_end_tokens or message.role != "assistant":
                chat.add([self.eos_id], index, sampled, "end")
            if self.max_seq_len is not None and len(chat) >= self.max_seq_len:
                chat.cut_off = index < len(messages) - 1
                break
        if self.max_seq_len is None:
            return chat
        return chat.truncate(self.max_seq_len, self.truncation_type, self.eos_id if add_end_tokens else None)

    def _encode_text(self, text: str) -> list[int]:
        return self._bpe.encode(text)

    def _encode_parts(self, texts: Sequence[str]) -> list[list[int]]:
        return self._bpe.encode_parts(texts)

    def _decode_text(self, ids: list[int]) -> str:
        return self._bpe.spell(ids).decode("utf-8", errors="replace")

    def _control_ids(self) -> Mapping[str, int]:
        return self.special_tokens
