"""The one size of Mistral."""

from __future__ import annotations

from torchtune.models._builders import SizeRows
from torchtune.models.mistral._component_builders import SOURCE, mistral_classifier_spec, mistral_spec

MISTRAL_SIZES = _size = SizeRows(
    "Mistral", mistral_spec, module=__name__, source=SOURCE, vocab_size=32_000, max_seq_len=32_768, sliding_window=4096
)
MISTRAL_REWARD_SIZES = _reward = SizeRows(
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
