"""Llama 3.2 Vision: models, their parts, and the transform."""

from __future__ import annotations

from functools import partial
from typing import Any

from torchtune.models._fusion import fusion_builders
from torchtune.models.llama3_2_vision._component_builders import (
    llama3_2_vision_decoder,
    llama3_2_vision_encoder,
    lora_llama3_2_vision_decoder,
    lora_llama3_2_vision_encoder,
)
from torchtune.models.llama3_2_vision._encoder import Llama3VisionEncoder, Llama3VisionProjectionHead
from torchtune.models.llama3_2_vision._transform import Llama3VisionTransform, llama3_2_vision_transform
from torchtune.modules.model_fusion import DeepFusionModel

_ENCODER: dict[str, Any] = {
    "patch_size": 14,
    "num_heads": 16,
    "clip_embed_dim": 1280,
    "clip_num_layers": 32,
    "clip_hidden_states": [3, 7, 15, 23, 30],
    "num_layers_projection": 8,
    "max_num_tiles": 4,
    "in_channels": 3,
}
_DECODER: dict[str, Any] = {
    "vocab_size": 128_256,
    "fusion_interval": 4,
    "num_special_tokens": 8,
    "num_kv_heads": 8,
    "max_seq_len": 131_072,
    "rope_base": 500_000.0,
}


def _model(
    sizes: dict[str, int],
    trained: dict[str, bool],
    adapted: dict[str, bool] | None,
    options: dict[str, Any],
    image_size: int,
) -> DeepFusionModel:
    images = {**_ENCODER, "decoder_embed_dim": sizes["embed_dim"], "tile_size": image_size}
    tokens_per_tile = (image_size // _ENCODER["patch_size"]) ** 2 + 1
    text = {**_DECODER, **sizes, "encoder_max_seq_len": _ENCODER["max_num_tiles"] * tokens_per_tile}
    if adapted is None:
        encoder, decoder = llama3_2_vision_encoder(**images), llama3_2_vision_decoder(**text)
    else:
        options = {**options, "fusion_lora": adapted["fusion"]}
        encoder = lora_llama3_2_vision_encoder(encoder_lora=adapted["encoder"], **options, **images)
        decoder = lora_llama3_2_vision_decoder(decoder_lora=adapted["decoder"], **options, **text)
    flags = {f"{part}_trainable": value for part, value in trained.items()}
    return DeepFusionModel(encoder=encoder, decoder=decoder, **flags)


def _builders(label: str, **sizes: int) -> tuple[Any, Any, Any]:
    return fusion_builders(
        f"llama3_2_vision_{label.lower()}",
        f"Llama 3.2 Vision {label}",
        partial(_model, sizes),
        module=__name__,
        returns=DeepFusionModel,
        parts={
            "decoder": "the decoder's layers of self-attention",
            "encoder": "the image encoder",
            "fusion": "cross-attention, the projection, and, where fully trained, the added tokens",
        },
        trained=(False, True, True),
        adapted=("frozen", "lora", "lora"),
        image_size=(560, "pixels of a tile's side: 560 for the instruct models, 448 for the base models."),
        source=f"https://huggingface.co/meta-llama/Llama-3.2-{label}-Vision (model card)",
    )


llama3_2_vision_11b, lora_llama3_2_vision_11b, qlora_llama3_2_vision_11b = _builders(
    "11B", num_layers=32, num_heads=32, embed_dim=4096, intermediate_dim=14336
)
llama3_2_vision_90b, lora_llama3_2_vision_90b, qlora_llama3_2_vision_90b = _builders(
    "90B", num_layers=80, num_heads=64, embed_dim=8192, intermediate_dim=28672
)

__all__ = [
    "Llama3VisionEncoder",
    "Llama3VisionProjectionHead",
    "Llama3VisionTransform",
    "llama3_2_vision_11b",
    "llama3_2_vision_90b",
    "llama3_2_vision_decoder",
    "llama3_2_vision_encoder",
    "llama3_2_vision_transform",
    "lora_llama3_2_vision_11b",
    "lora_llama3_2_vision_90b",
    "lora_llama3_2_vision_decoder",
    "lora_llama3_2_vision_encoder",
    "qlora_llama3_2_vision_11b",
    "qlora_llama3_2_vision_90b",
]
