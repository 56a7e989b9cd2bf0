"""Llama 3.2: the text models."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models.llama3_2._component_builders import SOURCE, llama3_2, llama3_2_spec, lora_llama3_2

_size = SizeRows(
    "Llama 3.2",
    llama3_2_spec,
    module=__name__,
    source=SOURCE,
    options={"tie_word_embeddings": True},
    vocab_size=128_256,
    max_seq_len=131_072,
    num_kv_heads=8,
)

# fmt: off
llama3_2_1b, lora_llama3_2_1b, qlora_llama3_2_1b = _size("llama3_2_1b", "1B", num_layers=16, num_heads=32, embed_dim=2048, intermediate_dim=8192)
llama3_2_3b, lora_llama3_2_3b, qlora_llama3_2_3b = _size("llama3_2_3b", "3B", num_layers=28, num_heads=24, embed_dim=3072, intermediate_dim=8192)
# fmt: on

__all__ = [*builder_names(globals()), "llama3_2", "lora_llama3_2"]
