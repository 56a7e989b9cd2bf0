"""The tokenizer of Mistral 7B and its SentencePiece successors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchtune.models.mistral._prompt_template import MistralChatTemplate
from torchtune.modules.transforms.tokenizers._spm_chat import WHITESPACE_CHARS, SentencePieceChatTokenizer

if TYPE_CHECKING:
    from torchtune.data._message import Message

__all__ = ["WHITESPACE_CHARS", "MistralTokenizer"]


class MistralTokenizer(SentencePieceChatTokenizer):
    """Tokenizer of Mistral. Which official format the model has is seen from the control tokens in its vocabulary.

    Args:
        path: the SentencePiece model.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: words put around the messages; the family's by default, None for none.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        chat_format: None writes plain conversations as torchtune always has, and the official format where a sample has
            tools or calls; "official", or the name of a format, writes all in the official format.
        train_on: "message" trains all of a message; "sampled" only what the model emits.
        format_options: options of the official format.

    Raises:
        OSError: if ``path`` is no SentencePiece model.
        ValueError: if an option has no such value.
    """

    def __init__(
        self,
        path: str,
        max_seq_len: int | None = None,
        prompt_template: Any = MistralChatTemplate(),  # noqa: B008
        truncation_type: str = "right",
        *,
        chat_format: str | None = None,
        train_on: str = "message",
        format_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            path,
            max_seq_len,
            prompt_template,
            truncation_type,
            chat_format=chat_format,
            train_on=train_on,
            format_options=format_options,
        )

    @property
    def default_format(self) -> str:  # type: ignore[override]
        """Name of the official chat format of this vocabulary."""
        model = self._spm_model.spm_model
        known = model.piece_to_id("[SYSTEM_PROMPT]") != model.unk_id()
        return "mistral_v7" if known else "mistral_v3"

    def tokenize_messages(  # type: ignore[override]
        self,
        messages: list[Message],
        *,
        add_eos: bool = True,
        tools: Any = None,
        add_end_tokens: bool = True,
    ) -> tuple[list[int], list[bool]]:
        """Encodes a conversation.

        Args:
            messages: the conversation.
            add_eos: the same as ``add_end_tokens``, as torchtune has called it here.
            tools: function schemas in OpenAI form, or None.
            add_end_tokens: True to put EOS after each answer; False leaves the last turn open.

        Returns:
            Token ids, and a mask that is True where a token is not trained.

        Raises:
            ValueError: if there are no messages, or the family cannot express one of them.
        """
        return super().tokenize_messages(messages, tools=tools, add_end_tokens=add_eos and add_end_tokens)
