"""Phi-4-mini: Phi-3 with a tied output layer, that rotates three quarters of each head, stretched for long inputs."""

from __future__ import annotations

from torchtune.models._builders import SizeRows, builder_names, component_builders, spec_function
from torchtune.models._dense import DecoderSpec
from torchtune.models._tokenizer import hf_tokenizer

SOURCE = "https://arxiv.org/abs/2503.01743 (Phi-4-Mini) and config.json of microsoft/Phi-4-mini-instruct"

# fmt: off
_LONG_FACTORS = [
    1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898,
    2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424,
    6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252,
    16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6,
    32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
]
# fmt: on
_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 48,
    "long_factor": _LONG_FACTORS,
    "original_max_position_embeddings": 4096,
    "max_position_embeddings": 131_072,
    "partial_rotary_factor": 0.75,
}


@spec_function(norm_eps=1e-5, tie_word_embeddings=True)
def phi4_mini_spec(spec: DecoderSpec) -> DecoderSpec:
    """What a Phi-4-mini decoder of these sizes is made of; ``rope_scaling`` says how it is stretched."""
    return spec


phi4_mini, lora_phi4_mini = component_builders(
    "phi4_mini", "Phi-4-mini", phi4_mini_spec, module=__name__, source=SOURCE
)
phi4_mini_tokenizer = hf_tokenizer("phi4_mini", "Phi-4-mini", module=__name__)

_size = SizeRows("Phi-4-mini", phi4_mini_spec, module=__name__, source=SOURCE, rope_scaling=_LONGROPE)

# fmt: off
phi4_mini_3_8b, lora_phi4_mini_3_8b, qlora_phi4_mini_3_8b = _size("phi4_mini_3_8b", "3.8B", billions=3.84, vocab_size=200_064, num_layers=32, num_heads=24, num_kv_heads=8, embed_dim=3072, intermediate_dim=8192, max_seq_len=131_072)
# fmt: on

__all__ = builder_names(globals())
