"""Code Llama."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models.llama2._component_builders import llama2_spec

_size = SizeRows(
    "Code Llama",
    llama2_spec,
    module=__name__,
    source="https://arxiv.org/abs/2308.12950 (Code Llama)",
    vocab_size=32_016,
    max_seq_len=16_384,
    rope_base=1_000_000,
)

# fmt: off
code_llama2_7b, lora_code_llama2_7b, qlora_code_llama2_7b = _size("code_llama2_7b", "7B", num_layers=32, num_heads=32, num_kv_heads=32, embed_dim=4096, intermediate_dim=11008)
code_llama2_13b, lora_code_llama2_13b, qlora_code_llama2_13b = _size("code_llama2_13b", "13B", num_layers=40, num_heads=40, num_kv_heads=40, embed_dim=5120, intermediate_dim=13824)
code_llama2_70b, lora_code_llama2_70b, qlora_code_llama2_70b = _size("code_llama2_70b", "70B", num_layers=80, num_heads=64, num_kv_heads=8, embed_dim=8192, intermediate_dim=28672)
# fmt: on

__all__ = builder_names(globals())
