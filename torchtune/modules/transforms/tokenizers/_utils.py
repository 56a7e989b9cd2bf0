"""What a tokenizer is, and the chat encoding of the families without control tokens for turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torchtune.modules.transforms.tokenizers._chat import only_text, speech
from torchtune.modules.transforms.tokenizers._chat_tokens import ChatTokens

if TYPE_CHECKING:
    from torchtune.data._message import Message


class BaseTokenizer(Protocol):
    """Text to token ids and back."""

    def encode(self, text: str, **kwargs: dict[str, Any]) -> list[int]:
        """The token ids of a text.

        Args:
            text: the text.
            kwargs: options of the tokenizer, such as ``add_bos`` and ``add_eos``.
        """
        ...

    def decode(self, token_ids: list[int], **kwargs: dict[str, Any]) -> str:
        """The text of token ids.

        Args:
            token_ids: the ids.
            kwargs: options of the tokenizer.
        """
        ...


class ModelTokenizer(Protocol):
    """The tokenizer of a model: conversations to token ids, with a mask."""

    special_tokens: dict[str, int]
    max_seq_len: int | None

    def tokenize_messages(self, messages: list[Message], **kwargs: dict[str, Any]) -> tuple[list[int], list[bool]]:
        """The token ids of a conversation, and a mask of the same length that is True where a token is not trained.

        Args:
            messages: the conversation, in order.
            kwargs: options of the tokenizer, such as ``tools``.
        """
        ...


def tokenize_messages_no_special_tokens(
    tokenizer: ModelTokenizer,
    messages: list[Message],
    *,
    bos_id: int | None = None,
    eos_id: int | None = None,
    truncation_type: str = "right",
) -> tuple[list[int], list[bool]]:
    """The token ids of a conversation as bare text, with BOS before a turn and EOS after each answer; and a mask.

    A turn is all up to and including an assistant message. Messages within a turn join as running text: white space
    that SentencePiece would put before a message is left out, unless the one before ended in a space.

    Args:
        tokenizer: one whose ``encode`` takes ``add_bos``, ``add_eos`` and ``trim_leading_whitespace``, and that has
            ``max_seq_len``.
        messages: the conversation.
        bos_id: id to begin each turn with, or None.
        eos_id: id to end each answer with, or None.
        truncation_type: the side to cut at ``tokenizer.max_seq_len``, "right" or "left".

    Raises:
        ValueError: if a message holds anything but text.
    """
    chat = join_turns(tokenizer, messages, bos_id=bos_id, eos_id=eos_id)
    if tokenizer.max_seq_len is not None:
        owner = chat.runs[-1].message_index if chat.runs else None
        chat = chat.truncate(tokenizer.max_seq_len, truncation_type, eos_id, owner)
    return chat.tokens, chat.mask()


def join_turns(
    tokenizer: Any, messages: list[Message], *, bos_id: int | None = None, eos_id: int | None = None
) -> ChatTokens:
    """The tokens of :func:`tokenize_messages_no_special_tokens`, not cut, with who owns each."""
    chat = ChatTokens(messages=messages)
    turn_starts, after_space = True, False
    for index, message in chat.fill(messages, tokenizer.max_seq_len):
        if turn_starts and bos_id is not None:
            chat.add([bos_id], index, False, "header")
        trims = not turn_starts and not after_space
        for item in message.content:
            text = only_text(item, index, message, tokenizer)
            ids = tokenizer.encode(text.rstrip(" "), add_bos=False, add_eos=False, trim_leading_whitespace=trims)
            chat.add(ids, index, *speech(message))
            after_space = text.endswith(" ")
        turn_starts = message.role == "assistant"
        if turn_starts and eos_id is not None:
            chat.add([eos_id], index, True, "end")
    return chat
