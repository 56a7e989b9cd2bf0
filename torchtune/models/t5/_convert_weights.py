"""T5 weights: the encoder of a Hugging Face checkpoint."""

from __future__ import annotations

from torchtune.models._convert import StateDict, convert_from_tune, convert_to_tune
from torchtune.models._key_maps import KeyMap

_BLOCK, _LAYER = "encoder.block.{}.layer.", "layers.{}."
T5_HF = KeyMap(
    "T5 encoder",
    {
        "encoder.embed_tokens.weight": ("token_embedding.weight",),
        # Only the first block has the bias; all layers use it.
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
            "relative_position_bias.embedding.weight",
        ),
        "encoder.final_layer_norm.weight": ("final_norm.scale",),
        **{
            _BLOCK + theirs + ".weight": (_LAYER + ours,)
            for theirs, ours in {
                "0.SelfAttention.q": "attn.q_proj.weight",
                "0.SelfAttention.k": "attn.k_proj.weight",
                "0.SelfAttention.v": "attn.v_proj.weight",
                "0.SelfAttention.o": "attn.output_proj.weight",
                "0.layer_norm": "sa_norm.scale",
                "1.DenseReluDense.wi_0": "mlp.w1.weight",
                "1.DenseReluDense.wi_1": "mlp.w3.weight",
                "1.DenseReluDense.wo": "mlp.w2.weight",
                "1.layer_norm": "mlp_norm.scale",
            }.items()
        },
    },
    ignored=("lm_head.weight", "shared.weight", "decoder.*"),
)


def t5_encoder_hf_to_tune(state_dict: StateDict) -> StateDict:
    """Convert a Hugging Face T5 checkpoint to our encoder; the decoder is left out."""
    if "encoder.embed_tokens.weight" not in state_dict and "shared.weight" in state_dict:
        state_dict = {**state_dict, "encoder.embed_tokens.weight": state_dict["shared.weight"]}
    return convert_to_tune(state_dict, T5_HF)


def t5_encoder_tune_to_hf(state_dict: StateDict) -> StateDict:
    """The inverse of :func:`t5_encoder_hf_to_tune`."""
    return convert_from_tune(state_dict, T5_HF)
