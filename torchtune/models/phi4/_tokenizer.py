"""The tokenizer of Phi 4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchtune.models.llama3._tokenizer import CL100K_PATTERN
from torchtune.models.phi3._tokenizer import PhiChatTokenizer
from torchtune.modules.transforms.tokenizers._bpe import ByteLevelBPE
from torchtune.modules.transforms.tokenizers._chat import only_text, speech
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens
from torchtune.modules.transforms.tokenizers._gpt2 import ByteLevelChatTokenizer

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


class Phi4Tokenizer(PhiChatTokenizer, ByteLevelChatTokenizer):
    """Tokenizer of Phi 4. For further arguments see :class:`~torchtune.models.llama3.Llama3Tokenizer`.

    Args:
        vocab_path: the ``vocab.json``.
        merges_path: the ``merges.txt``.

    Raises:
        OSError: if a file does not exist.
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
        self._setup_chat(max_seq_len, prompt_template, truncation_type, **options)

    def _plain_chat(self, messages: list[Message], add_end_tokens: bool, **options: Any) -> ChatTokens:
        """Each message between its header and ``<|im_end|>``; an answer only has that with ``add_end_tokens``."""
        chat = ChatTokens()
        start, separator = self.special_tokens["<|im_start|>"], self.special_tokens["<|im_sep|>"]
        for index, message in chat.fill(messages, self.max_seq_len):
            role = "tool" if message.role == "ipython" else message.role
            sampled, part = speech(message)
            chat.add([start, *self._encode_text(role), separator], index, False, "header")
            for item in message.content:
                chat.add(self._encode_text(only_text(item, index, message, self).rstrip(" ")), index, sampled, part)
            if add_end_tokens or message.role != "assistant":
                chat.add([self.eos_id], index, sampled, "end")
        return chat
