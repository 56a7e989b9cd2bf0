"""The one size of Phi-3, and what builds its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.phi3._component_builders import SOURCE, phi3_spec
from torchtune.models.phi3._tokenizer import Phi3MiniTokenizer

PHI3_SIZES = _size = SizeRows("Phi-3", phi3_spec, module=__name__, source=SOURCE)

# fmt: off
phi3_mini, lora_phi3_mini, qlora_phi3_mini = _size("phi3_mini", "mini (4k)", vocab_size=32_064, num_layers=32, num_heads=32, num_kv_heads=32, embed_dim=3072, intermediate_dim=8192, max_seq_len=4096, sliding_window=2047)
# fmt: on

phi3_mini_tokenizer = tokenizer_builder(
    Phi3MiniTokenizer, "phi3_mini_tokenizer", "Phi 3 mini", {"path": "SentencePiece model"}, module=__name__
)

if not TYPE_CHECKING:  # type checkers see each builder by its name
    __all__ = builder_names(globals())
