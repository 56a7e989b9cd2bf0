"""The sizes of Llama 3.2 Vision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torchtune.models._fusion import fusion_builders
from torchtune.models.llama3_2_vision._component_builders import (
    llama3_2_vision_decoder,
    llama3_2_vision_encoder,
    lora_llama3_2_vision_decoder,
    lora_llama3_2_vision_encoder,
)
from torchtune.modules.model_fusion import DeepFusionModel


@dataclass(frozen=True)
class _Size:
    """One size: the parts of the decoder that differ; the image encoder is the same in all."""

    num_layers: int
    num_heads: int
    embed_dim: int
    intermediate_dim: int

    def encoder(self, image_size: int) -> dict[str, Any]:
        return {
            "patch_size": 14,
            "num_heads": 16,
            "clip_embed_dim": 1280,
            "clip_num_layers": 32,
            "clip_hidden_states": [3, 7, 15, 23, 30],
            "num_layers_projection": 8,
            "decoder_embed_dim": self.embed_dim,
            "tile_size": image_size,
            "max_num_tiles": 4,
            "in_channels": 3,
        }

    def decoder(self, image_size: int) -> dict[str, Any]:
        tokens_per_tile = (image_size // 14) ** 2 + 1
        return {
            "vocab_size": 128_256,
            "num_layers": self.num_layers,
            "fusion_interval": 4,
            "num_special_tokens": 8,
            "num_heads": self.num_heads,
            "num_kv_heads": 8,
            "embed_dim": self.embed_dim,
            "max_seq_len": 131_072,
            "encoder_max_seq_len": 4 * tokens_per_tile,
            "rope_base": 500_000.0,
            "intermediate_dim": self.intermediate_dim,
        }


def _model(
    size: _Size, trained: dict[str, bool], adapted: dict[str, bool] | None, options: dict[str, Any], image_size: int
) -> DeepFusionModel:
    encoder, decoder = size.encoder(image_size), size.decoder(image_size)
    if adapted is None:
        parts: tuple[Any, Any] = llama3_2_vision_encoder(**encoder), llama3_2_vision_decoder(**decoder)
    else:
        options = {**options, "fusion_lora": adapted["fusion"]}
        parts = (
            lora_llama3_2_vision_encoder(encoder_lora=adapted["encoder"], **options, **encoder),
            lora_llama3_2_vision_decoder(decoder_lora=adapted["decoder"], **options, **decoder),
        )
    flags = {f"{part}_trainable": value for part, value in trained.items()}
    return DeepFusionModel(encoder=parts[0], decoder=parts[1], **flags)


_PARTS = {
    "decoder": "the decoder's layers of self-attention",
    "encoder": "the image encoder",
    "fusion": "cross-attention, the projection, and, where fully trained, the added tokens",
}


def _builders(name: str, label: str, size: _Size) -> tuple[Any, Any, Any]:
    return fusion_builders(
        name,
        f"Llama 3.2 Vision {label}",
        partial(_model, size),
        module=__name__,
        returns=DeepFusionModel,
        parts=_PARTS,
        trained=(False, True, True),
        adapted=("frozen", "lora", "lora"),
        image_size=(560, "pixels of a tile's side: 560 for the instruct models, 448 for the base models."),
        source=f"https://huggingface.co/meta-llama/Llama-3.2-{label}-Vision (model card)",
    )


_11B = _Size(num_layers=32, num_heads=32, embed_dim=4096, intermediate_dim=14336)
_90B = _Size(num_layers=80, num_heads=64, embed_dim=8192, intermediate_dim=28672)

llama3_2_vision_11b, lora_llama3_2_vision_11b, qlora_llama3_2_vision_11b = _builders("llama3_2_vision_11b", "11B", _11B)
llama3_2_vision_90b, lora_llama3_2_vision_90b, qlora_llama3_2_vision_90b = _builders("llama3_2_vision_90b", "90B", _90B)
