"""The sizes of Llama 3.2 Vision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torchtune.models._dense import LORA_ATTN_MODULES
from torchtune.models.llama3_2_vision._component_builders import (
    llama3_2_vision_decoder,
    llama3_2_vision_encoder,
    lora_llama3_2_vision_decoder,
    lora_llama3_2_vision_encoder,
)
from torchtune.modules.model_fusion import DeepFusionModel

Trainable = Literal["full", "lora", "frozen"]


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


_DOC = """Build Llama 3.2 Vision {label}.

Args:
    decoder_trainable (bool): train the decoder's layers of self-attention.
    encoder_trainable (bool): train the image encoder.
    fusion_trainable (bool): train cross-attention, the projection, and the added tokens.
    image_size (int): pixels of a tile's side: 560 for the instruct models, 448 for the base models.

Returns:
    DeepFusionModel: token ids ``[b, s]`` and images to logits ``[b, s, vocab_size]``.

Source: https://huggingface.co/meta-llama/Llama-3.2-{label}-Vision (model card)
"""
_LORA_DOC = """Build Llama 3.2 Vision {label} with {kind}.

Args:
    lora_attn_modules (list[LORA_ATTN_MODULES]): attention projections that get an adapter.
    decoder_trainable (Trainable): "full", "lora" or "frozen": the decoder's layers of self-attention.
    encoder_trainable (Trainable): "full", "lora" or "frozen": the image encoder.
    fusion_trainable (Trainable): "full", "lora" or "frozen": cross-attention and the projection.
    apply_lora_to_mlp (bool): adapt the feed-forward layers too.
    apply_lora_to_output (bool): adapt the output layer and the projection too.
    lora_rank (int): rank of the low-rank update.
    lora_alpha (float): scale of the update: ``lora_alpha / lora_rank``.
    lora_dropout (float): dropout before the update.
    use_dora (bool): DoRA instead of LoRA.
    quantize_base (bool): keep the base weights of adapted parts in NF4.
    image_size (int): pixels of a tile's side: 560 for the instruct models, 448 for the base models.

Returns:
    DeepFusionModel: token ids ``[b, s]`` and images to logits ``[b, s, vocab_size]``.

Raises:
    ValueError: if a part is to be none of the three.
"""


def _full(name: str, label: str, size: _Size) -> Callable[..., DeepFusionModel]:
    def build(
        decoder_trainable: bool = False,
        encoder_trainable: bool = True,
        fusion_trainable: bool = True,
        image_size: int = 560,
    ) -> DeepFusionModel:
        return DeepFusionModel(
            encoder=llama3_2_vision_encoder(**size.encoder(image_size)),
            decoder=llama3_2_vision_decoder(**size.decoder(image_size)),
            encoder_trainable=encoder_trainable,
            decoder_trainable=decoder_trainable,
            fusion_trainable=fusion_trainable,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = _DOC.format(label=label)
    return build


def _lora(name: str, label: str, size: _Size) -> Callable[..., DeepFusionModel]:
    def build(
        lora_attn_modules: list[LORA_ATTN_MODULES],
        decoder_trainable: Trainable = "frozen",
        encoder_trainable: Trainable = "lora",
        fusion_trainable: Trainable = "lora",
        apply_lora_to_mlp: bool = False,
        apply_lora_to_output: bool = False,
        lora_rank: int = 8,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        use_dora: bool = False,
        quantize_base: bool = False,
        image_size: int = 560,
    ) -> DeepFusionModel:
        parts = {"decoder": decoder_trainable, "encoder": encoder_trainable, "fusion": fusion_trainable}
        for part, value in parts.items():
            if value not in ("full", "lora", "frozen"):
                raise ValueError(f"{part}_trainable is {value!r}; it is one of 'full', 'lora', 'frozen'")
        options: dict[str, Any] = {
            "fusion_lora": fusion_trainable == "lora",
            "lora_attn_modules": lora_attn_modules,
            "apply_lora_to_mlp": apply_lora_to_mlp,
            "apply_lora_to_output": apply_lora_to_output,
            "lora_rank": lora_rank,
            "lora_alpha": lora_alpha,
            "lora_dropout": lora_dropout,
            "use_dora": use_dora,
            "quantize_base": quantize_base,
        }
        encoder = lora_llama3_2_vision_encoder(
            encoder_lora=encoder_trainable == "lora", **options, **size.encoder(image_size)
        )
        decoder = lora_llama3_2_vision_decoder(
            decoder_lora=decoder_trainable == "lora", **options, **size.decoder(image_size)
        )
        return DeepFusionModel(
            encoder=encoder,
            decoder=decoder,
            encoder_trainable=encoder_trainable != "frozen",
            decoder_trainable=decoder_trainable != "frozen",
            fusion_trainable=fusion_trainable != "frozen",
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = _LORA_DOC.format(label=label, kind="LoRA or DoRA")
    return build


def _qlora(lora: Callable[..., DeepFusionModel], label: str) -> Callable[..., DeepFusionModel]:
    build = partial(lora, quantize_base=True)
    build.__doc__ = _LORA_DOC.format(label=label, kind="LoRA on an NF4 base (QLoRA)")
    return build


_11B = _Size(num_layers=32, num_heads=32, embed_dim=4096, intermediate_dim=14336)
_90B = _Size(num_layers=80, num_heads=64, embed_dim=8192, intermediate_dim=28672)

llama3_2_vision_11b = _full("llama3_2_vision_11b", "11B", _11B)
llama3_2_vision_90b = _full("llama3_2_vision_90b", "90B", _90B)
lora_llama3_2_vision_11b = _lora("lora_llama3_2_vision_11b", "11B", _11B)
lora_llama3_2_vision_90b = _lora("lora_llama3_2_vision_90b", "90B", _90B)
qlora_llama3_2_vision_11b = _qlora(lora_llama3_2_vision_11b, "11B")
qlora_llama3_2_vision_90b = _qlora(lora_llama3_2_vision_90b, "90B")
