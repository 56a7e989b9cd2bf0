"""Builds the tokenizer of Mistral from what a config holds."""

from __future__ import annotations

from typing import Any

from torchtune.models._tokenizer import hf_tokenizer
from torchtune.models.mistral._tokenizer import MistralTokenizer
from torchtune.modules.transforms.tokenizers._builder import read_template


def mistral_tokenizer(
    path: str,
    max_seq_len: int | None = None,
    prompt_template: Any = "torchtune.models.mistral.MistralChatTemplate",
    truncation_type: str = "right",
    **kwargs: Any,
) -> MistralTokenizer:
    """Builds the tokenizer of Mistral.

    Args:
        path: the SentencePiece model.
        max_seq_len: length that conversations are cut to, or None.
        prompt_template: dotted path of a prompt template, or a dict of role -> (before, after), or None.
        truncation_type: the side that tokens are dropped from, "right" or "left".
        **kwargs: other arguments of the tokenizer, such as ``chat_format`` and ``train_on``.

    Raises:
        ValueError: if ``prompt_template`` is neither of these.
    """
    return MistralTokenizer(
        path=path,
        max_seq_len=max_seq_len,
        prompt_template=read_template(prompt_template),
        truncation_type=truncation_type,
        **kwargs,
    )


# Ministral, Nemo and Small have Tekken, whose files are those of Hugging Face.
tekken_tokenizer = hf_tokenizer("tekken", "Mistral's models with Tekken", module=__name__, chat_format="mistral_v3")
