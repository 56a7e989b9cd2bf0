"""Llama 3.3."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models.llama3_1._component_builders import llama3_1_spec

_size = SizeRows(
    "Llama 3.3",
    llama3_1_spec,
    module=__name__,
    source="https://huggingface.co/meta-llama/Llama-3.3-70B-Instruct (model card)",
    vocab_size=128_256,
    max_seq_len=131_072,
    num_kv_heads=8,
)

# fmt: off
llama3_3_70b, lora_llama3_3_70b, qlora_llama3_3_70b = _size("llama3_3_70b", "70B", num_layers=80, num_heads=64, embed_dim=8192, intermediate_dim=28672)
# fmt: on

__all__ = builder_names(globals())
