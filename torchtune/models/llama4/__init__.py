"""Llama 4: models and their parts, tokenizer and transform."""

from torchtune.models.llama4._component_builders import (
    llama4_decoder,
    llama4_vision_encoder,
    llama4_vision_projection_head,
    lora_llama4_decoder,
    lora_llama4_vision_encoder,
    lora_llama4_vision_projection_head,
)
from torchtune.models.llama4._encoder import Llama4VisionEncoder, Llama4VisionProjectionHead
from torchtune.models.llama4._model_builders import (
    llama4_maverick_17b_128e,
    llama4_scout_17b_16e,
    lora_llama4_scout_17b_16e,
)
from torchtune.models.llama4._parallelism import decoder_only_tp_plan
from torchtune.models.llama4._position_embeddings import Llama4ScaledRoPE
from torchtune.models.llama4._tokenizer import Llama4Tokenizer
from torchtune.models.llama4._transform import Llama4Transform, llama4_transform

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
