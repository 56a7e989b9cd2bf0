"""Llama 4: models and their parts, tokenizer and transform."""

from __future__ import annotations

from functools import partial
from typing import Any

from torchtune.models._fusion import fusion_builders
from torchtune.models.llama4._component_builders import (
    llama4_decoder,
    llama4_vision_encoder,
    llama4_vision_projection_head,
    lora_llama4_decoder,
    lora_llama4_vision_encoder,
    lora_llama4_vision_projection_head,
)
from torchtune.models.llama4._encoder import Llama4VisionEncoder, Llama4VisionProjectionHead
from torchtune.models.llama4._parallelism import decoder_only_tp_plan
from torchtune.models.llama4._position_embeddings import Llama4ScaledRoPE
from torchtune.models.llama4._tokenizer import Llama4Tokenizer
from torchtune.models.llama4._transform import Llama4Transform, llama4_transform
from torchtune.modules.model_fusion import EarlyFusionModel

# <|patch|>: one stands for each token of an image.
PATCH_TOKEN = 200_092

_ENCODER: dict[str, Any] = {
    "patch_size": 14,
    "num_heads": 16,
    "clip_embed_dim": 1408,
    "clip_num_layers": 34,
    "projection_embed_dim": 4096,
    "decoder_embed_dim": 5120,
    "max_num_tiles": 1,
    "in_channels": 3,
}
_DECODER: dict[str, Any] = {
    "vocab_size": 202_048,
    "num_layers": 48,
    "num_heads": 40,
    "num_kv_heads": 8,
    "embed_dim": 5120,
    "hidden_dim": 8192,
    "rope_base": 500_000,
    "norm_eps": 1e-5,
    "experts_per_token": 1,
    "use_shared_expert": True,
    "skip_rope_interval": 4,
    "attention_chunk_size": 8192,
}
_SCOUT: dict[str, Any] = {
    **_DECODER,
    "max_seq_len": 10_485_760,
    "num_experts": 16,
    "use_qk_norm": True,
    "use_scaled_rope": True,
    "rope_scale_factor": 16.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 1.0,
    "old_context_len": 8192,
}
_MAVERICK: dict[str, Any] = {
    **_DECODER,
    "max_seq_len": 1_048_576,
    "num_experts": 128,
    "use_qk_norm": False,
    "moe_every_n_layers": 2,
    "mlp_hidden_dim": 16_384,
}


def _model(
    sizes: dict[str, Any],
    trained: dict[str, bool],
    adapted: dict[str, bool] | None,
    options: dict[str, Any],
    image_size: int,
) -> EarlyFusionModel:
    images = {**_ENCODER, "tile_size": image_size}
    if adapted is None:
        decoder, encoder = llama4_decoder(**sizes), llama4_vision_encoder(**images)
    else:
        flags = {"encoder_lora": adapted["encoder"], "fusion_lora": adapted["fusion"]}
        decoder = lora_llama4_decoder(decoder_lora=adapted["decoder"], **options, **sizes)
        encoder = lora_llama4_vision_encoder(**flags, **options, **images)
    return EarlyFusionModel(
        decoder=decoder,
        encoders={"vision": encoder},
        encoder_tokens={"vision": PATCH_TOKEN},
        decoder_trainable=trained["decoder"],
        encoders_trainable=trained["encoder"],
        fusion_trainable=trained["fusion"],
    )


# The base weights of adapted parts are NF4 where quantized, but for the experts.
_builders = partial(
    fusion_builders,
    module=__name__,
    returns=EarlyFusionModel,
    parts={"decoder": "the decoder", "encoder": "the image encoder", "fusion": "the projection between the two"},
    trained=(True, False, True),
    adapted=("lora", "frozen", "lora"),
    image_size=(336, "pixels of a tile's side."),
)
_URL = "https://huggingface.co/meta-llama/Llama-4-"
llama4_scout_17b_16e, lora_llama4_scout_17b_16e, _ = _builders(
    "llama4_scout_17b_16e",
    "Llama 4 Scout: 16 experts, 17 billion active parameters",
    partial(_model, _SCOUT),
    source=f"{_URL}Scout-17B-16E (config.json)",
    keyword_only=True,
)
llama4_maverick_17b_128e, _, _ = _builders(
    "llama4_maverick_17b_128e",
    "Llama 4 Maverick: 128 experts in every other layer, 17 billion active parameters",
    partial(_model, _MAVERICK),
    source=f"{_URL}Maverick-17B-128E (config.json)",
)

__all__ = [
    "Llama4ScaledRoPE",
    "Llama4Tokenizer",
    "Llama4Transform",
    "Llama4VisionEncoder",
    "Llama4VisionProjectionHead",
    "decoder_only_tp_plan",
    "llama4_decoder",
    "llama4_maverick_17b_128e",
    "llama4_scout_17b_16e",
    "llama4_transform",
    "llama4_vision_encoder",
    "llama4_vision_projection_head",
    "lora_llama4_decoder",
    "lora_llama4_scout_17b_16e",
    "lora_llama4_vision_encoder",
    "lora_llama4_vision_projection_head",
]
