"""CLIP weights: the text encoder of a Hugging Face checkpoint."""

from __future__ import annotations

from torchtune.models._convert import weight_converters
from torchtune.models._key_maps import KeyMap, kinds

_THEIRS, _OURS = "text_model.encoder.layers.{}.", "layers.{}."
_LAYERS = {
    "layer_norm1": "sa_norm",
    "layer_norm2": "mlp_norm",
    "mlp.fc1": "mlp.w1",
    "mlp.fc2": "mlp.w2",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.out_proj": "attn.output_proj",
}
CLIP_TEXT_HF = KeyMap(
    "CLIP text encoder",
    {
        "text_model.embeddings.token_embedding.weight": ("token_embedding.weight",),
        "text_model.embeddings.position_embedding.weight": ("position_embedding",),
        **{_THEIRS + theirs: (_OURS + ours,) for theirs, ours in kinds(_LAYERS).items()},
        "text_model.final_layer_norm.weight": ("final_norm.weight",),
        "text_model.final_layer_norm.bias": ("final_norm.bias",),
    },
    ignored=(
        "logit_scale",
        "text_model.embeddings.position_ids",
        "text_projection.weight",
        "visual_projection.weight",
        "vision_model.*",
    ),
)
# The image encoder is left out.
clip_text_hf_to_tune, clip_text_tune_to_hf = weight_converters(
    "clip_text_", "a Hugging Face CLIP text encoder", CLIP_TEXT_HF, module=__name__, sizes=False
)
