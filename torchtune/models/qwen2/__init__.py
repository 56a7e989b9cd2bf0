"""Qwen2: models, tokenizer and weight conversion."""

from torchtune.models._builders import LORA_ORDER_TIED, SizeRows, builder_names
from torchtune.models._rope import Qwen2RotaryPositionalEmbeddings
from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.qwen2._component_builders import SOURCE, lora_qwen2, qwen2, qwen2_spec
from torchtune.models.qwen2._convert_weights import qwen2_hf_to_tune, qwen2_tune_to_hf
from torchtune.models.qwen2._tokenizer import Qwen2Tokenizer

_size = SizeRows("Qwen2", qwen2_spec, module=__name__, source=SOURCE, max_seq_len=32_768, norm_eps=1e-6)

# fmt: off
qwen2_0_5b, lora_qwen2_0_5b, _ = _size("qwen2_0_5b", "0.5B", vocab_size=151_936, num_layers=24, num_heads=14, num_kv_heads=2, embed_dim=896, intermediate_dim=4864, tie_word_embeddings=True, lora_order=LORA_ORDER_TIED)
qwen2_1_5b, lora_qwen2_1_5b, _ = _size("qwen2_1_5b", "1.5B", vocab_size=151_936, num_layers=28, num_heads=12, num_kv_heads=2, embed_dim=1536, intermediate_dim=8960, tie_word_embeddings=True, lora_order=LORA_ORDER_TIED)
qwen2_7b, lora_qwen2_7b, _ = _size("qwen2_7b", "7B", vocab_size=152_064, num_layers=28, num_heads=28, num_kv_heads=4, embed_dim=3584, intermediate_dim=18944)
# fmt: on

qwen2_tokenizer = tokenizer_builder(
    Qwen2Tokenizer,
    "qwen2_tokenizer",
    "Qwen 2",
    {"path": "vocab.json", "merges_file": "merges.txt"},
    module=__name__,
    optional=("merges_file",),
)

__all__ = [
    *builder_names(globals()),
    "Qwen2RotaryPositionalEmbeddings",
    "Qwen2Tokenizer",
    "lora_qwen2",
    "qwen2",
    "qwen2_hf_to_tune",
    "qwen2_tune_to_hf",
]
