"""Builds the tokenizer of Mistral from what a config holds."""

from __future__ import annotations

from torchtune.models._tokenizer import hf_tokenizer, tokenizer_builder
from torchtune.models.mistral._tokenizer import MistralTokenizer

mistral_tokenizer = tokenizer_builder(
    MistralTokenizer,
    "mistral_tokenizer",
    "Mistral",
    {"path": "SentencePiece model"},
    module=__name__,
    special_tokens=False,
    template="torchtune.models.mistral.MistralChatTemplate",
)

# Ministral, Nemo and Small have Tekken, whose files are those of Hugging Face.
tekken_tokenizer = hf_tokenizer(
    "tekken", "Mistral's models with Tekken", module=__name__, chat_format="mistral_v3_tekken"
)
