"""The tokenizer of Llama 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchtune.models.llama2._prompt_template import Llama2ChatTemplate
from torchtune.modules.transforms.tokenizers._spm_chat import WHITESPACE_CHARS, SentencePieceChatTokenizer

if TYPE_CHECKING:
    from torchtune.data._message import Message

__all__ = ["WHITESPACE_CHARS", "Llama2Tokenizer"]


class Llama2Tokenizer(SentencePieceChatTokenizer):
    """Tokenizer of Llama 2.

    Args:
        path: the SentencePiece model.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: words put around the messages; the family's by default, None for none.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        **options: ``chat_format``, ``train_on`` and ``format_options``: see
            :class:`~torchtune.models.llama3.Llama3Tokenizer`.

    Raises:
        OSError: if ``path`` is no SentencePiece model.
        ValueError: if an option has no such value.
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
            messages: the conversation.
            add_start_tokens: True to put BOS before each turn; the official format has its own.
            add_end_tokens: True to put EOS after each answer; False leaves the last turn open.
            tools: function schemas in OpenAI form, or None.

        Returns:
            Token ids, and a mask that is True where a token is not trained.

        Raises:
            ValueError: if there are no messages, or the family cannot express one of them.
        """
        chat = self.tokenize_chat(
            messages, tools=tools, add_end_tokens=add_end_tokens, add_start_tokens=add_start_tokens
        )
        return chat.tokens, chat.mask(self.train_on)
