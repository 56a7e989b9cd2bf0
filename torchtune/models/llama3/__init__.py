"""Llama 3: models, tokenizer, tensor-parallel plan."""

from torchtune.models._builders import LORA_ORDER_LLAMA3, SizeRows, builder_names
from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.llama3._component_builders import SOURCE, llama3, llama3_spec, lora_llama3
from torchtune.models.llama3._parallelism import base_llama_tp_plan
from torchtune.models.llama3._tokenizer import Llama3Tokenizer

_size = SizeRows(
    "Llama 3",
    llama3_spec,
    module=__name__,
    source=SOURCE,
    lora_order=LORA_ORDER_LLAMA3,
    vocab_size=128_256,
    max_seq_len=8192,
    num_kv_heads=8,
)

# fmt: off
llama3_8b, lora_llama3_8b, qlora_llama3_8b = _size("llama3_8b", "8B", num_layers=32, num_heads=32, embed_dim=4096, intermediate_dim=14336)
llama3_70b, lora_llama3_70b, qlora_llama3_70b = _size("llama3_70b", "70B", num_layers=80, num_heads=64, embed_dim=8192, intermediate_dim=28672)
# fmt: on

llama3_tokenizer = tokenizer_builder(
    Llama3Tokenizer,
    "llama3_tokenizer",
    "Llama 3, 3.1, 3.2 or 3.3",
    {"path": "``tokenizer.model`` in tiktoken's form"},
    module=__name__,
)

__all__ = [*builder_names(globals()), "Llama3Tokenizer", "base_llama_tp_plan", "llama3", "lora_llama3"]
