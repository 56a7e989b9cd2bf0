"""The tokenizer of Gemma and Gemma 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchtune.modules.transforms.tokenizers._spm_chat import WHITESPACE_CHARS, SentencePieceChatTokenizer

if TYPE_CHECKING:
    from torchtune.data._message import Message

__all__ = ["WHITESPACE_CHARS", "GemmaTokenizer"]


class GemmaTokenizer(SentencePieceChatTokenizer):
    """Tokenizer of Gemma and Gemma 2.

    Args:
        path: the SentencePiece model.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: words put around the messages, or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        chat_format: None writes plain conversations as torchtune always has, and the official format where a sample has
            tools or calls; "official", or the name of a format, writes all in the official format.
        train_on: "message" trains all of a message; "sampled" only what the model emits.
        format_options: options of the official format.

    Raises:
        OSError: if ``path`` is no SentencePiece model.
        ValueError: if an option has no such value.
    """

    default_format = "gemma2"

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
