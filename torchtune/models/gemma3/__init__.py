"""Gemma 3, its text part: Gemma 2 with q and k normalized, and two kinds of layers instead of soft caps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torchtune.models._builders import SizeRows, builder_names, component_builders, spec_function
from torchtune.models._convert import StateDict
from torchtune.models._dense import DecoderSpec
from torchtune.models._family import LAYER_KEYS, Family, rope_of
from torchtune.models._key_maps import GEMMA, INV_FREQ, QK_NORM, KeyMap
from torchtune.models._masks import windows_of
from torchtune.models._rope import ScaledRotaryPositionalEmbeddings
from torchtune.models._tokenizer import hf_tokenizer
from torchtune.models.gemma._component_builders import gelu_tanh
from torchtune.models.gemma.gemma_norm_embedding import GemmaNormEmbeddings
from torchtune.models.gemma.rms_norm import GemmaRMSNorm

SOURCE = "https://arxiv.org/abs/2503.19786 (Gemma 3 Technical Report) and the model cards"


@spec_function(rope_base=1_000_000.0, tie_word_embeddings=True)
def gemma3_spec(
    spec: DecoderSpec,
    sliding_window: int | None = 1024,
    layer_types: list[str] | None = None,
    local_rope_base: float = 10_000.0,
    query_pre_attn_scalar: float | None = None,
) -> DecoderSpec:
    """What a Gemma 3 decoder of these sizes is made of: five layers with a window, then one without."""
    kinds = layer_types or ["sliding_attention" if i % 6 != 5 else "full_attention" for i in range(spec.num_layers)]
    local = partial(ScaledRotaryPositionalEmbeddings, base=local_rope_base)
    return replace(
        spec,
        layer_rope=lambda index: local if kinds[index] == "sliding_attention" else spec.rope,
        mask_mod=windows_of(sliding_window, kinds),
        activation=gelu_tanh,
        norm=GemmaRMSNorm,
        qk_norm=(True, True),
        post_norms=True,
        embedding=GemmaNormEmbeddings,
        attention={"softmax_scale": (query_pre_attn_scalar or spec.head_size) ** -0.5},
    )


def _text_part(state_dict: StateDict) -> StateDict:
    """The text part of a checkpoint with images, by the names of one without."""
    vision = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
    text = {key: value for key, value in state_dict.items() if not key.startswith(vision)}
    names = {key: key.removeprefix("language_model.").replace("model.language_model.", "model.") for key in text}
    return {names[key]: value for key, value in text.items()}


FAMILIES = (
    Family(
        "gemma3_text",
        gemma3_spec,
        KeyMap("Gemma 3", {**GEMMA, **QK_NORM}, ignored=INV_FREQ),
        activation="gelu_pytorch_tanh",
        fixed={"attention_bias": False, "attn_logit_softcapping": None, "final_logit_softcapping": None}
        | {"use_bidirectional_attention": False},
        extra={**LAYER_KEYS, "query_pre_attn_scalar": "query_pre_attn_scalar"},
        always_tied=True,
        defaults={
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "rope_theta": 1_000_000.0,
        },
        reads=lambda config: {"local_rope_base": rope_of(config, "sliding_attention")[0]},
        prepare=_text_part,
        architecture="Gemma3ForCausalLM",
        alias="gemma3",
    ),
)
gemma3, lora_gemma3 = component_builders("gemma3", "Gemma 3", gemma3_spec, module=__name__, source=SOURCE)
gemma3_tokenizer = hf_tokenizer("gemma3", "Gemma 3", module=__name__)

_size = partial(SizeRows, "Gemma 3", gemma3_spec, module=__name__, source=SOURCE)
_small = _size(vocab_size=262_144, head_dim=256, max_seq_len=32_768, sliding_window=512)
_large = _size(vocab_size=262_208, max_seq_len=131_072, rope_scaling={"rope_type": "linear", "factor": 8.0})

# fmt: off
gemma3_270m, lora_gemma3_270m, qlora_gemma3_270m = _small("gemma3_270m", "270M", billions=0.268, num_layers=18, num_heads=4, num_kv_heads=1, embed_dim=640, intermediate_dim=2048)
gemma3_1b, lora_gemma3_1b, qlora_gemma3_1b = _small("gemma3_1b", "1B", billions=1.0, num_layers=26, num_heads=4, num_kv_heads=1, embed_dim=1152, intermediate_dim=6912)
gemma3_4b, lora_gemma3_4b, qlora_gemma3_4b = _large("gemma3_4b", "4B", billions=3.88, num_layers=34, num_heads=8, num_kv_heads=4, head_dim=256, embed_dim=2560, intermediate_dim=10240)
gemma3_12b, lora_gemma3_12b, qlora_gemma3_12b = _large("gemma3_12b", "12B", billions=11.8, num_layers=48, num_heads=16, num_kv_heads=8, head_dim=256, embed_dim=3840, intermediate_dim=15360)
gemma3_27b, lora_gemma3_27b, qlora_gemma3_27b = _large("gemma3_27b", "27B", billions=27.0, num_layers=62, num_heads=32, num_kv_heads=16, head_dim=128, embed_dim=5376, intermediate_dim=21504, query_pre_attn_scalar=168)
# fmt: on

__all__ = builder_names(globals())
