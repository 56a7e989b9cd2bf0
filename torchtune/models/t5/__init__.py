"""T5: the encoder of v1.1, and its tokenizer."""

from torchtune.models.t5._component_builders import t5_encoder
from torchtune.models.t5._model_builders import t5_tokenizer, t5_v1_1_xxl_encoder

__all__ = ["t5_encoder", "t5_tokenizer", "t5_v1_1_xxl_encoder"]
