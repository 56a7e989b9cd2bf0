"""Phi-3: models, tokenizer and weight conversion."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models._rope import Phi3RotaryPositionalEmbeddings
from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.phi3._component_builders import SOURCE, lora_phi3, phi3, phi3_spec
from torchtune.models.phi3._convert_weights import phi3_hf_to_tune, phi3_tune_to_hf
from torchtune.models.phi3._tokenizer import Phi3MiniTokenizer

_size = SizeRows("Phi-3", phi3_spec, module=__name__, source=SOURCE)

# fmt: off
phi3_mini, lora_phi3_mini, qlora_phi3_mini = _size("phi3_mini", "mini (4k)", vocab_size=32_064, num_layers=32, num_heads=32, num_kv_heads=32, embed_dim=3072, intermediate_dim=8192, max_seq_len=4096, sliding_window=2047)
# fmt: on

phi3_mini_tokenizer = tokenizer_builder(
    Phi3MiniTokenizer, "phi3_mini_tokenizer", "Phi 3 mini", {"path": "SentencePiece model"}, module=__name__
)

__all__ = [
    *builder_names(globals()),
    "Phi3MiniTokenizer",
    "Phi3RotaryPositionalEmbeddings",
    "lora_phi3",
    "phi3",
    "phi3_hf_to_tune",
    "phi3_tune_to_hf",
]
