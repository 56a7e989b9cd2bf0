"""Gemma 2: models and tokenizer."""

from torchtune.models._builders import LORA_ORDER_TIED, SizeRows, builder_names
from torchtune.models.gemma import GemmaTokenizer, gemma_tokenizer
from torchtune.models.gemma2._component_builders import SOURCE, gemma2, gemma2_spec, lora_gemma2

_size = SizeRows(
    "Gemma 2",
    gemma2_spec,
    module=__name__,
    source=SOURCE,
    lora_order=LORA_ORDER_TIED,
    vocab_size=256_000,
    max_seq_len=8192,
    cap_logits=True,
)

# fmt: off
gemma2_2b, lora_gemma2_2b, qlora_gemma2_2b = _size("gemma2_2b", "2B", num_layers=26, num_heads=8, head_dim=256, num_kv_heads=4, embed_dim=2304, intermediate_dim=9216)
gemma2_9b, lora_gemma2_9b, qlora_gemma2_9b = _size("gemma2_9b", "9B", num_layers=42, num_heads=16, head_dim=256, num_kv_heads=8, embed_dim=3584, intermediate_dim=14336)
gemma2_27b, lora_gemma2_27b, qlora_gemma2_27b = _size("gemma2_27b", "27B", num_layers=46, num_heads=32, head_dim=128, num_kv_heads=16, embed_dim=4608, intermediate_dim=36864, query_pre_attn_scalar=144)
# fmt: on

__all__ = [*builder_names(globals()), "GemmaTokenizer", "gemma2", "gemma_tokenizer", "lora_gemma2"]
