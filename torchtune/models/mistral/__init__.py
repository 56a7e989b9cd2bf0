"""Mistral: models, classifiers, reward models, tokenizer."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models._tokenizer import hf_tokenizer, tokenizer_builder
from torchtune.models.mistral._component_builders import (
    SOURCE,
    lora_mistral,
    lora_mistral_classifier,
    mistral,
    mistral_classifier,
    mistral_classifier_spec,
    mistral_spec,
)
from torchtune.models.mistral._prompt_template import MistralChatTemplate
from torchtune.models.mistral._tokenizer import MistralTokenizer

_size = SizeRows(
    "Mistral", mistral_spec, module=__name__, source=SOURCE, vocab_size=32_000, max_seq_len=32_768, sliding_window=4096
)
# Their tokenizers have 131,072 tokens (Tekken); sizes and contexts are those of config.json.
_tekken = SizeRows(
    "Mistral",
    mistral_spec,
    module=__name__,
    source="https://huggingface.co/mistralai (model cards and config.json)",
    vocab_size=131_072,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
)
_reward = SizeRows(
    "Mistral reward model",
    mistral_classifier_spec,
    module=__name__,
    source=SOURCE,
    num_classes=1,
    vocab_size=32_000,
    max_seq_len=32_768,
    sliding_window=4096,
)

# fmt: off
mistral_7b, lora_mistral_7b, qlora_mistral_7b = _size("mistral_7b", "7B", num_layers=32, num_heads=32, num_kv_heads=8, embed_dim=4096, intermediate_dim=14336)
mistral_reward_7b, lora_mistral_reward_7b, qlora_mistral_reward_7b = _reward("mistral_reward_7b", "7B", num_layers=32, num_heads=32, num_kv_heads=8, embed_dim=4096, intermediate_dim=14336)
ministral_8b, lora_ministral_8b, qlora_ministral_8b = _tekken("ministral_8b", "Ministral 8B (2410)", billions=8.02, num_layers=36, embed_dim=4096, intermediate_dim=12288, max_seq_len=32_768, rope_base=100_000_000)
mistral_nemo_12b, lora_mistral_nemo_12b, qlora_mistral_nemo_12b = _tekken("mistral_nemo_12b", "Nemo 12B (2407)", billions=12.2, num_layers=40, embed_dim=5120, intermediate_dim=14336, max_seq_len=131_072, rope_base=1_000_000)
mistral_small_24b, lora_mistral_small_24b, qlora_mistral_small_24b = _tekken("mistral_small_24b", "Small 3 24B (2501)", billions=23.6, num_layers=40, embed_dim=5120, intermediate_dim=32768, max_seq_len=32_768, rope_base=100_000_000)
# fmt: on

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

__all__ = [
    *builder_names(globals()),
    "MistralChatTemplate",
    "MistralTokenizer",
    "lora_mistral",
    "lora_mistral_classifier",
    "mistral",
    "mistral_classifier",
]
