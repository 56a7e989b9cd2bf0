"""Llama 2: models, classifiers, reward models, tokenizer."""

from torchtune.models._builders import SizeRows, builder_names
from torchtune.models._tokenizer import tokenizer_builder
from torchtune.models.llama2._component_builders import (
    SOURCE,
    llama2,
    llama2_classifier,
    llama2_classifier_spec,
    llama2_spec,
    lora_llama2,
    lora_llama2_classifier,
)
from torchtune.models.llama2._prompt_template import Llama2ChatTemplate
from torchtune.models.llama2._tokenizer import Llama2Tokenizer

_size = SizeRows("Llama 2", llama2_spec, module=__name__, source=SOURCE, vocab_size=32_000, max_seq_len=4096)
_reward = SizeRows(
    "Llama 2 reward model",
    llama2_classifier_spec,
    module=__name__,
    source=SOURCE,
    num_classes=1,
    vocab_size=32_000,
    max_seq_len=4096,
)

# fmt: off
llama2_7b, lora_llama2_7b, qlora_llama2_7b = _size("llama2_7b", "7B", num_layers=32, num_heads=32, num_kv_heads=32, embed_dim=4096, intermediate_dim=11008)
llama2_13b, lora_llama2_13b, qlora_llama2_13b = _size("llama2_13b", "13B", num_layers=40, num_heads=40, num_kv_heads=40, embed_dim=5120, intermediate_dim=13824)
llama2_70b, lora_llama2_70b, qlora_llama2_70b = _size("llama2_70b", "70B", num_layers=80, num_heads=64, num_kv_heads=8, embed_dim=8192, intermediate_dim=28672)
llama2_reward_7b, lora_llama2_reward_7b, qlora_llama2_reward_7b = _reward("llama2_reward_7b", "7B", num_layers=32, num_heads=32, num_kv_heads=32, embed_dim=4096, intermediate_dim=11008)
# fmt: on

llama2_tokenizer = tokenizer_builder(
    Llama2Tokenizer,
    "llama2_tokenizer",
    "Llama 2",
    {"path": "SentencePiece model"},
    module=__name__,
    special_tokens=False,
    template="torchtune.models.llama2.Llama2ChatTemplate",
)

__all__ = [
    *builder_names(globals()),
    "Llama2ChatTemplate",
    "Llama2Tokenizer",
    "llama2",
    "llama2_classifier",
    "lora_llama2",
    "lora_llama2_classifier",
]
