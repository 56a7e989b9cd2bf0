"""The tokenizer of Mistral 7B and its SentencePiece successors."""

from __future__ import annotations

from typing import Any

from torchtune.models.mistral._prompt_template import MistralChatTemplate
from torchtune.modules.transforms.tokenizers._spm_chat import WHITESPACE_CHARS, AddEosTokenizer

__all__ = ["WHITESPACE_CHARS", "MistralTokenizer"]


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
