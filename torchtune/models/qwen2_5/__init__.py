"""Qwen2.5: models and tokenizer."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.qwen2._component_builders import qwen2_spec
from torchtune.models.qwen2_5._tokenizer import Qwen2_5Tokenizer

_size = SizeRows(
    "Qwen2.5",
    qwen2_spec,
    module=__name__,
    source="https://arxiv.org/abs/2412.15115 (Qwen2.5 Technical Report) and the model cards",
    norm_eps=1e-6,
)

# fmt: off
qwen2_5_0_5b, lora_qwen2_5_0_5b, _ = _size("qwen2_5_0_5b", "0.5B", vocab_size=151_936, num_layers=24, num_heads=14, num_kv_heads=2, embed_dim=896, intermediate_dim=4864, max_seq_len=32_768, tie_word_embeddings=True)
qwen2_5_1_5b_base, lora_qwen2_5_1_5b_base, _ = _size("qwen2_5_1_5b_base", "1.5B base", vocab_size=151_936, num_layers=28, num_heads=12, num_kv_heads=2, embed_dim=1536, intermediate_dim=8960, max_seq_len=131_072, tie_word_embeddings=True)
qwen2_5_1_5b_instruct, lora_qwen2_5_1_5b_instruct, _ = _size("qwen2_5_1_5b_instruct", "1.5B instruct", vocab_size=151_936, num_layers=28, num_heads=12, num_kv_heads=2, embed_dim=1536, intermediate_dim=8960, max_seq_len=32_768, tie_word_embeddings=True)
qwen2_5_3b, lora_qwen2_5_3b, _ = _size("qwen2_5_3b", "3B", vocab_size=151_936, num_layers=36, num_heads=16, num_kv_heads=2, embed_dim=2048, intermediate_dim=11008, max_seq_len=32_768, tie_word_embeddings=True)
qwen2_5_7b_base, lora_qwen2_5_7b_base, _ = _size("qwen2_5_7b_base", "7B base", vocab_size=152_064, num_layers=28, num_heads=28, num_kv_heads=4, embed_dim=3584, intermediate_dim=18944, max_seq_len=131_072)
qwen2_5_7b_instruct, lora_qwen2_5_7b_instruct, _ = _size("qwen2_5_7b_instruct", "7B instruct", vocab_size=152_064, num_layers=28, num_heads=28, num_kv_heads=4, embed_dim=3584, intermediate_dim=18944, max_seq_len=32_768)
qwen2_5_14b_base, lora_qwen2_5_14b_base, _ = _size("qwen2_5_14b_base", "14B base", vocab_size=152_064, num_layers=48, num_heads=40, num_kv_heads=8, embed_dim=5120, intermediate_dim=13824, max_seq_len=131_072, norm_eps=1e-5)
qwen2_5_14b_instruct, lora_qwen2_5_14b_instruct, _ = _size("qwen2_5_14b_instruct", "14B instruct", vocab_size=152_064, num_layers=48, num_heads=40, num_kv_heads=8, embed_dim=5120, intermediate_dim=13824, max_seq_len=32_768)
qwen2_5_32b_base, lora_qwen2_5_32b_base, _ = _size("qwen2_5_32b_base", "32B base", vocab_size=152_064, num_layers=64, num_heads=40, num_kv_heads=8, embed_dim=5120, intermediate_dim=27648, max_seq_len=131_072, norm_eps=1e-5)
qwen2_5_32b_instruct, lora_qwen2_5_32b_instruct, _ = _size("qwen2_5_32b_instruct", "32B instruct", vocab_size=152_064, num_layers=64, num_heads=40, num_kv_heads=8, embed_dim=5120, intermediate_dim=27648, max_seq_len=32_768)
qwen2_5_72b_base, lora_qwen2_5_72b_base, _ = _size("qwen2_5_72b_base", "72B base", vocab_size=152_064, num_layers=80, num_heads=64, num_kv_heads=8, embed_dim=8192, intermediate_dim=29568, max_seq_len=131_072, norm_eps=1e-5)
qwen2_5_72b_instruct, lora_qwen2_5_72b_instruct, _ = _size("qwen2_5_72b_instruct", "72B instruct", vocab_size=152_064, num_layers=80, num_heads=64, num_kv_heads=8, embed_dim=8192, intermediate_dim=29568, max_seq_len=32_768)
# fmt: on

qwen2_5_tokenizer = tokenizer_builder(
    Qwen2_5Tokenizer,
    "qwen2_5_tokenizer",
    "Qwen 2.5",
    {"path": "vocab.json", "merges_file": "merges.txt"},
    module=__name__,
)

__all__ = [*builder_names(globals()), "Qwen2_5Tokenizer"]
