"""Llama 3.1: models and their positional embedding."""

from torchtune.models._builders import LORA_ORDER_LLAMA3, SizeRows, builder_names
from torchtune.models.llama3_1._component_builders import SOURCE, llama3_1, llama3_1_spec, lora_llama3_1
from torchtune.models.llama3_1._position_embeddings import Llama3ScaledRoPE

_size = SizeRows(
    "Llama 3.1", llama3_1_spec, module=__name__, source=SOURCE, vocab_size=128_256, max_seq_len=131_072, num_kv_heads=8
)

# fmt: off
llama3_1_8b, lora_llama3_1_8b, qlora_llama3_1_8b = _size("llama3_1_8b", "8B", num_layers=32, num_heads=32, embed_dim=4096, intermediate_dim=14336)
llama3_1_70b, lora_llama3_1_70b, qlora_llama3_1_70b = _size("llama3_1_70b", "70B", num_layers=80, num_heads=64, embed_dim=8192, intermediate_dim=28672)
llama3_1_405b, lora_llama3_1_405b, qlora_llama3_1_405b = _size("llama3_1_405b", "405B", num_layers=126, num_heads=128, embed_dim=16384, intermediate_dim=53248, lora_order=LORA_ORDER_LLAMA3)
# fmt: on

__all__ = [*builder_names(globals()), "Llama3ScaledRoPE", "llama3_1", "lora_llama3_1"]
