"""Llama 3.2 Vision: models, their parts, and the transform."""

from torchtune.models.llama3_2_vision._component_builders import (
    llama3_2_vision_decoder,
    llama3_2_vision_encoder,
    lora_llama3_2_vision_decoder,
    lora_llama3_2_vision_encoder,
)
from torchtune.models.llama3_2_vision._encoder import Llama3VisionEncoder, Llama3VisionProjectionHead
from torchtune.models.llama3_2_vision._model_builders import (
    llama3_2_vision_11b,
    llama3_2_vision_90b,
    lora_llama3_2_vision_11b,
    lora_llama3_2_vision_90b,
    qlora_llama3_2_vision_11b,
    qlora_llama3_2_vision_90b,
)
from torchtune.models.llama3_2_vision._transform import Llama3VisionTransform, llama3_2_vision_transform

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
