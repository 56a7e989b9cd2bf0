"""The tokenizer of Llama 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchtune.models.llama2._prompt_template import Llama2ChatTemplate
from torchtune.modules.transforms.tokenizers._spm_chat import WHITESPACE_CHARS, SentencePieceChatTokenizer

if TYPE_CHECKING:
    from torchtune.data._message import Message

__all__ = ["WHITESPACE_CHARS", "Llama2Tokenizer"]


class Llama2Tokenizer(SentencePieceChatTokenizer):
    """Tokenizer of Llama 2. For further arguments see :class:`~torchtune.models.llama3.Llama3Tokenizer`.

    Args:
        path: the SentencePiece model.
        prompt_template: words put around the messages; the family's by default, None for none.

    Raises:
        OSError: if ``path`` is no SentencePiece model.
    """

    default_format = "llama2"

    def __init__(
        self,
        path: str,
        max_seq_len: int | None = None,
        prompt_template: Any = Llama2ChatTemplate(),  # noqa: B008
        truncation_type: str = "right",
        **options: Any,
    ) -> None:
        super().__init__(path, max_seq_len, prompt_template, truncation_type, **options)

    def tokenize_messages(  # type: ignore[override]
        self, messages: list[Message], *, add_start_tokens: bool = True, add_end_tokens: bool = True, tools: Any = None
    ) -> tuple[list[int], list[bool]]:
        """Encodes a conversation.

        Args:
            add_start_tokens: True to put BOS before each turn; the official format has its own.
            add_end_tokens: True to put EOS after each answer; False leaves the last turn open.
        """
        chat = self.tokenize_chat(
            messages, tools=tools, add_end_tokens=add_end_tokens, add_start_tokens=add_start_tokens
        )
        return chat.tokens, chat.mask(self.train_on)
