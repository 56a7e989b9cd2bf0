"""Gemma: models and tokenizer."""

from torchtune.models._builders import LORA_ORDER_TIED, SizeRows, builder_names
from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.gemma._component_builders import SOURCE, gemma, gemma_spec, lora_gemma
from torchtune.models.gemma._tokenizer import GemmaTokenizer

_size = SizeRows(
    "Gemma",
    gemma_spec,
    module=__name__,
    source=SOURCE,
    lora_order=LORA_ORDER_TIED,
    vocab_size=256_000,
    max_seq_len=8192,
    head_dim=256,
)

# fmt: off
gemma_2b, lora_gemma_2b, qlora_gemma_2b = _size("gemma_2b", "2B", num_layers=18, num_heads=8, num_kv_heads=1, embed_dim=2048, intermediate_dim=16384)
gemma_7b, lora_gemma_7b, qlora_gemma_7b = _size("gemma_7b", "7B", num_layers=28, num_heads=16, num_kv_heads=16, embed_dim=3072, intermediate_dim=24576)
# fmt: on

gemma_tokenizer = tokenizer_builder(
    GemmaTokenizer, "gemma_tokenizer", "Gemma", {"path": "SentencePiece model"}, module=__name__, special_tokens=False
)

__all__ = [*builder_names(globals()), "GemmaTokenizer", "gemma", "lora_gemma"]
