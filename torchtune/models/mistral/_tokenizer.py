"""The tokenizer of Mistral 7B and its SentencePiece successors."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

from torchtune.modules.transforms.tokenizers._spm_chat import WHITESPACE_CHARS, AddEosTokenizer

if TYPE_CHECKING:
    from torchtune.data._message import Message

__all__ = ["WHITESPACE_CHARS", "MistralChatTemplate", "MistralTokenizer"]


class MistralChatTemplate:
    """Writes a conversation in Mistral's words: ``[INST] question [/INST] answer``. There is no system message."""

    template: ClassVar[dict[str, tuple[str, str] | None]] = {
        "system": None,
        "user": ("[INST] ", " [/INST] "),
        "assistant": ("", ""),
        "ipython": ("", ""),
    }

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """New messages with the words around them; a system message is a ValueError."""
        out = []
        for index, message in enumerate(messages):
            words = self.template["ipython" if message.role == "tool" else message.role]
            if words is None:
                raise ValueError(
                    f"System prompts are not supported in MistralChatTemplate: message {index} is one. Put its text into "
                    'the first user message, or use chat_format="official" with a model that has them.'
                )
            changed = copy.copy(message)
            before, after = ({"type": "text", "content": text} for text in words)
            changed.content = [before, *message.content, after]
            out.append(changed)
        return out


class MistralTokenizer(AddEosTokenizer):
    """Tokenizer of Mistral. Which official format the model has is seen from the control tokens in its vocabulary.

    For further arguments see :class:`~torchtune.models.llama3.Llama3Tokenizer`.

    Args:
        path: the SentencePiece model.
        prompt_template: words put around the messages; the family's by default, None for none.

    Raises:
        OSError: if ``path`` is no SentencePiece model.
    """

    def __init__(
        self,
        path: str,
        max_seq_len: int | None = None,
        prompt_template: Any = MistralChatTemplate(),  # noqa: B008
        truncation_type: str = "right",
        **options: Any,
    ) -> None:
        super().__init__(path, max_seq_len, prompt_template, truncation_type, **options)

    @property
    def default_format(self) -> str:  # type: ignore[override]
        """Name of the official chat format of this vocabulary."""
        model = self._spm_model.spm_model
        known = model.piece_to_id("[SYSTEM_PROMPT]") != model.unk_id()
        return "mistral_v7" if known else "mistral_v3"
