"""Models of several encoders and a decoder."""

from torchtune.modules.model_fusion._deep_fusion import DeepFusionModel
from torchtune.modules.model_fusion._early_fusion import EarlyFusionModel
from torchtune.modules.model_fusion._fusion_layers import (
    FusionEmbedding,
    FusionLayer,
    get_fusion_params,
    register_fusion_module,
)

__all__ = [
    "DeepFusionModel",
    "EarlyFusionModel",
    "FusionEmbedding",
    "FusionLayer",
    "get_fusion_params",
    "register_fusion_module",
]
