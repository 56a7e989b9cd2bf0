"""Phi-4: model and tokenizer."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.phi3._component_builders import phi3_spec
from torchtune.models.phi4._tokenizer import Phi4Tokenizer

# The rotary base is that of the published config.json (250,000); with 10,000 the released weights give wrong logits.
_size = SizeRows(
    "Phi-4",
    phi3_spec,
    module=__name__,
    source="https://arxiv.org/abs/2412.08905 (Phi-4 Technical Report)",
    rope_base=250_000,
)

# fmt: off
phi4_14b, lora_phi4_14b, qlora_phi4_14b = _size("phi4_14b", "14B", vocab_size=100_352, num_layers=40, num_heads=40, num_kv_heads=10, embed_dim=5120, intermediate_dim=17920, max_seq_len=16_384)
# fmt: on

phi4_tokenizer = tokenizer_builder(
    Phi4Tokenizer,
    "phi4_tokenizer",
    "Phi 4",
    {"vocab_path": "vocab.json", "merges_path": "merges.txt"},
    module=__name__,
    optional=("vocab_path", "merges_path"),
)

__all__ = [*builder_names(globals()), "Phi4Tokenizer"]
