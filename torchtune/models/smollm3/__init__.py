"""SmolLM 3: Llama's layers, of which every fourth has no positional embedding."""

from __future__ import annotations

from dataclasses import replace

from torchtune.models._builders import SizeRows, builder_names, component_builders, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models._family import Family
from torchtune.models._key_maps import INV_FREQ, LLAMA, KeyMap
from torchtune.models._tokenizer import hf_tokenizer

SOURCE = "https://huggingface.co/HuggingFaceTB/SmolLM3-3B (model card, config.json)"


@spec_function(rope_base=5_000_000.0, tie_word_embeddings=True)
def smollm3_spec(spec: DecoderSpec, no_rope_layers: list[int] | None = None) -> DecoderSpec:
    """What a SmolLM 3 decoder of these sizes is made of."""
    turns = no_rope_layers or [(index + 1) % 4 for index in range(spec.num_layers)]
    return replace(spec, layer_rope=lambda index: spec.rope if turns[index] else None)


# Llama's names, with the rows of q and k as they are.
FAMILIES = (
    Family(
        "smollm3",
        smollm3_spec,
        KeyMap("SmolLM 3", LLAMA, ignored=INV_FREQ),
        fixed={"use_sliding_window": False, "attention_bias": False, "mlp_bias": False},
        extra={"no_rope_layers": "no_rope_layers"},
        defaults={"rope_theta": 2_000_000.0, "tie_word_embeddings": True},
    ),
)
smollm3, lora_smollm3 = component_builders("smollm3", "SmolLM 3", smollm3_spec, module=__name__, source=SOURCE)
smollm3_tokenizer = hf_tokenizer("smollm3", "SmolLM 3", module=__name__)

_size = SizeRows("SmolLM 3", smollm3_spec, module=__name__, source=SOURCE, vocab_size=128_256)

# fmt: off
smollm3_3b, lora_smollm3_3b, qlora_smollm3_3b = _size("smollm3_3b", "3B", billions=3.08, num_layers=36, num_heads=16, num_kv_heads=4, embed_dim=2048, intermediate_dim=11008, max_seq_len=65_536)
# fmt: on

__all__ = builder_names(globals())
