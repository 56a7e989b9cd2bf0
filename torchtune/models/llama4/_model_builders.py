"""The sizes of Llama 4."""

from __future__ import annotations

from typing import Any, Literal

from torchtune.models._dense import LORA_ATTN_MODULES
from torchtune.models.llama4._component_builders import (
    llama4_decoder,
    llama4_vision_encoder,
    lora_llama4_decoder,
    lora_llama4_vision_encoder,
)
from torchtune.modules.model_fusion import EarlyFusionModel

Trainable = Literal["full", "lora", "frozen"]

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


def _fused(
    decoder: dict[str, Any], decoder_trainable: bool, encoder_trainable: bool, fusion_trainable: bool, image_size: int
) -> EarlyFusionModel:
    return EarlyFusionModel(
        decoder=llama4_decoder(**decoder),
        encoders={"vision": llama4_vision_encoder(**_ENCODER, tile_size=image_size)},
        encoder_tokens={"vision": PATCH_TOKEN},
        decoder_trainable=decoder_trainable,
        encoders_trainable=encoder_trainable,
        fusion_trainable=fusion_trainable,
    )


def llama4_scout_17b_16e(
    *,
    decoder_trainable: bool = True,
    encoder_trainable: bool = False,
    fusion_trainable: bool = True,
    image_size: int = 336,
) -> EarlyFusionModel:
    """Build Llama 4 Scout: 16 experts, 17 billion active parameters.

    Args:
        decoder_trainable (bool): train the decoder.
        encoder_trainable (bool): train the image encoder.
        fusion_trainable (bool): train the projection between the two.
        image_size (int): pixels of a tile's side.

    Returns:
        EarlyFusionModel: token ids ``[b, s]`` and images to logits ``[b, s, vocab_size]``.

    Source: https://huggingface.co/meta-llama/Llama-4-Scout-17B-16E (config.json)
    """
    return _fused(_SCOUT, decoder_trainable, encoder_trainable, fusion_trainable, image_size)


def llama4_maverick_17b_128e(
    decoder_trainable: bool = True,
    encoder_trainable: bool = False,
    fusion_trainable: bool = True,
    image_size: int = 336,
) -> EarlyFusionModel:
    """Build Llama 4 Maverick: 128 experts in every other layer, 17 billion active parameters.

    Args:
        decoder_trainable (bool): train the decoder.
        encoder_trainable (bool): train the image encoder.
        fusion_trainable (bool): train the projection between the two.
        image_size (int): pixels of a tile's side.

    Returns:
        EarlyFusionModel: token ids ``[b, s]`` and images to logits ``[b, s, vocab_size]``.

    Source: https://huggingface.co/meta-llama/Llama-4-Maverick-17B-128E (config.json)
    """
    return _fused(_MAVERICK, decoder_trainable, encoder_trainable, fusion_trainable, image_size)


def lora_llama4_scout_17b_16e(
    lora_attn_modules: list[LORA_ATTN_MODULES],
    *,
    decoder_trainable: Trainable = "lora",
    encoder_trainable: Trainable = "frozen",
    fusion_trainable: Trainable = "lora",
    apply_lora_to_mlp: bool = False,
    apply_lora_to_output: bool = False,
    lora_rank: int = 8,
    lora_alpha: float = 16,
    lora_dropout: float = 0.0,
    use_dora: bool = False,
    quantize_base: bool = False,
    image_size: int = 336,
) -> EarlyFusionModel:
    """Build Llama 4 Scout with LoRA, DoRA or QLoRA.

    Args:
        lora_attn_modules (list[LORA_ATTN_MODULES]): attention projections that get an adapter.
        decoder_trainable (Trainable): "full", "lora" or "frozen": the decoder.
        encoder_trainable (Trainable): "full", "lora" or "frozen": the image encoder.
        fusion_trainable (Trainable): "full", "lora" or "frozen": the projection between the two.
        apply_lora_to_mlp (bool): adapt experts and feed-forward layers too.
        apply_lora_to_output (bool): adapt the output layer and the projection too.
        lora_rank (int): rank of the low-rank update.
        lora_alpha (float): scale of the update: ``lora_alpha / lora_rank``.
        lora_dropout (float): dropout before the update.
        use_dora (bool): DoRA instead of LoRA.
        quantize_base (bool): keep the base weights of adapted parts in NF4, but for the experts.
        image_size (int): pixels of a tile's side.

    Returns:
        EarlyFusionModel: token ids ``[b, s]`` and images to logits ``[b, s, vocab_size]``.

    Raises:
        ValueError: where a part is none of the three.
    """
    parts = {"decoder": decoder_trainable, "encoder": encoder_trainable, "fusion": fusion_trainable}
    for part, value in parts.items():
        if value not in ("full", "lora", "frozen"):
            raise ValueError(f"{part}_trainable is {value!r}; it is one of 'full', 'lora', 'frozen'")
    options: dict[str, Any] = {
        "lora_attn_modules": lora_attn_modules,
        "apply_lora_to_mlp": apply_lora_to_mlp,
        "apply_lora_to_output": apply_lora_to_output,
        "lora_rank": lora_rank,
        "lora_alpha": lora_alpha,
        "lora_dropout": lora_dropout,
        "use_dora": use_dora,
        "quantize_base": quantize_base,
    }
    encoder = lora_llama4_vision_encoder(
        encoder_lora=encoder_trainable == "lora",
        fusion_lora=fusion_trainable == "lora",
        **options,
        **_ENCODER,
        tile_size=image_size,
    )
    return EarlyFusionModel(
        decoder=lora_llama4_decoder(decoder_lora=decoder_trainable == "lora", **options, **_SCOUT),
        encoders={"vision": encoder},
        encoder_tokens={"vision": PATCH_TOKEN},
        decoder_trainable=decoder_trainable != "frozen",
        encoders_trainable=encoder_trainable != "frozen",
        fusion_trainable=fusion_trainable != "frozen",
    )
