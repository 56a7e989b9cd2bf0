"""Qwen3: models and tokenizer."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.qwen3._component_builders import lora_qwen3, qwen3, qwen3_spec
from torchtune.models.qwen3._tokenizer import Qwen3Tokenizer

_size = SizeRows(
    "Qwen3",
    qwen3_spec,
    module=__name__,
    source="https://arxiv.org/abs/2505.09388 (Qwen3 Technical Report) and the model cards",
    vocab_size=151_936,
    head_dim=128,
    norm_eps=1e-6,
)

# fmt: off
qwen3_0_6b_base, lora_qwen3_0_6b_base, _ = _size("qwen3_0_6b_base", "0.6B base", num_layers=28, num_heads=16, num_kv_heads=8, embed_dim=1024, intermediate_dim=3072, max_seq_len=32_768, tie_word_embeddings=True)
qwen3_0_6b_instruct, lora_qwen3_0_6b_instruct, _ = _size("qwen3_0_6b_instruct", "0.6B instruct", num_layers=28, num_heads=16, num_kv_heads=8, embed_dim=1024, intermediate_dim=3072, max_seq_len=40_960, tie_word_embeddings=True)
qwen3_1_7b_base, lora_qwen3_1_7b_base, _ = _size("qwen3_1_7b_base", "1.7B base", num_layers=28, num_heads=16, num_kv_heads=8, embed_dim=2048, intermediate_dim=6144, max_seq_len=32_768, tie_word_embeddings=True)
qwen3_1_7b_instruct, lora_qwen3_1_7b_instruct, _ = _size("qwen3_1_7b_instruct", "1.7B instruct", num_layers=28, num_heads=16, num_kv_heads=8, embed_dim=2048, intermediate_dim=6144, max_seq_len=40_960, tie_word_embeddings=True)
qwen3_4b_base, lora_qwen3_4b_base, _ = _size("qwen3_4b_base", "4B base", num_layers=36, num_heads=32, num_kv_heads=8, embed_dim=2560, intermediate_dim=9728, max_seq_len=32_768, tie_word_embeddings=True)
qwen3_4b_instruct, lora_qwen3_4b_instruct, _ = _size("qwen3_4b_instruct", "4B instruct", num_layers=36, num_heads=32, num_kv_heads=8, embed_dim=2560, intermediate_dim=9728, max_seq_len=40_960, tie_word_embeddings=True)
qwen3_8b_base, lora_qwen3_8b_base, _ = _size("qwen3_8b_base", "8B base", num_layers=36, num_heads=32, num_kv_heads=8, embed_dim=4096, intermediate_dim=12288, max_seq_len=32_768)
qwen3_8b_instruct, lora_qwen3_8b_instruct, _ = _size("qwen3_8b_instruct", "8B instruct", num_layers=36, num_heads=32, num_kv_heads=8, embed_dim=4096, intermediate_dim=12288, max_seq_len=40_960)
qwen3_14b_base, lora_qwen3_14b_base, _ = _size("qwen3_14b_base", "14B base", num_layers=40, num_heads=40, num_kv_heads=8, embed_dim=5120, intermediate_dim=17408, max_seq_len=32_768)
qwen3_14b_instruct, lora_qwen3_14b_instruct, _ = _size("qwen3_14b_instruct", "14B instruct", num_layers=40, num_heads=40, num_kv_heads=8, embed_dim=5120, intermediate_dim=17408, max_seq_len=40_960)
qwen3_32b, lora_qwen3_32b, _ = _size("qwen3_32b", "32B", num_layers=64, num_heads=64, num_kv_heads=8, embed_dim=5120, intermediate_dim=25600, max_seq_len=40_960)
# fmt: on

qwen3_tokenizer = tokenizer_builder(
    Qwen3Tokenizer, "qwen3_tokenizer", "Qwen 3", {"path": "vocab.json", "merges_file": "merges.txt"}, module=__name__
)

__all__ = [*builder_names(globals()), "Qwen3Tokenizer", "lora_qwen3", "qwen3"]
