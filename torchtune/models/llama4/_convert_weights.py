"""Weights of Llama 4: fused gate and up projections of the experts, patches as rows, Meta's experts folded into rows."""

from __future__ import annotations

import torch

from torchtune.models._convert import StateDict, convert_from_tune, convert_to_tune, to_conv
from torchtune.models._key_maps import KeyMap, kinds

_CLIP = "encoders.vision.clip."
_OUTPUT = "encoders.vision.projection.output."
_HF_TEXT, _HF_LAYER, _LAYER = "language_model.model.", "language_model.model.layers.{}.", "decoder.layers.{}."
_CONV = _CLIP + "conv.weight"


_HF_TEXT_LAYER = {
    **{f"self_attn.{p}_proj.weight": f"attn.{p}_proj.weight" for p in "qkv"},
    "self_attn.o_proj.weight": "attn.output_proj.weight",
    "input_layernorm.weight": "sa_norm.scale",
    "post_attention_layernorm.weight": "mlp_norm.scale",
    "feed_forward.experts.gate_proj": "mlp.experts.gate_proj",
    "feed_forward.experts.up_proj": "mlp.experts.up_proj",
    "feed_forward.experts.down_proj": "mlp.experts.down_proj",
    "feed_forward.router.weight": "mlp.router.gate.weight",
    **{
        f"feed_forward.{shared}{theirs}_proj.weight": f"mlp.{shared}{ours}.weight"
        for shared in ("", "shared_expert.")
        for theirs, ours in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    },
}
_HF_VISION_LAYER = kinds(
    {
        **{f"self_attn.{p}_proj": f"attn.{p}_proj" for p in "qkv"},
        "self_attn.o_proj": "attn.output_proj",
        "mlp.fc1": "mlp.w1",
        "mlp.fc2": "mlp.w2",
        "input_layernorm": "sa_norm",
        "post_attention_layernorm": "mlp_norm",
    }
)
_HF = KeyMap(
    "Llama 4",
    {
        theirs: (ours,)
        for theirs, ours in {
            _HF_TEXT + "embed_tokens.weight": "decoder.tok_embeddings.weight",
            _HF_TEXT + "norm.weight": "decoder.norm.scale",
            "language_model.lm_head.weight": "decoder.output.weight",
            **{_HF_LAYER + k: _LAYER + v for k, v in _HF_TEXT_LAYER.items()},
            **kinds({f"vision_model.layernorm_{n}": f"{_CLIP}ln_{n}" for n in ("pre", "post")}),
            "vision_model.class_embedding": _CLIP + "cls_token_embedding.weight",
            "vision_model.positional_embedding_vlm": _CLIP + "token_pos_embedding.positional_embedding",
            "vision_model.patch_embedding.linear.weight": _CONV,
            **{f"vision_model.model.layers.{{}}.{k}": f"{_CLIP}layers.{{}}.{v}" for k, v in _HF_VISION_LAYER.items()},
            "vision_model.vision_adapter.mlp.fc1.weight": _OUTPUT + "0.weight",
            "vision_model.vision_adapter.mlp.fc2.weight": _OUTPUT + "2.weight",
            "multi_modal_projector.linear_1.weight": _OUTPUT + "4.weight",
        }.items()
    },
    ignored=("*rotary_emb.inv_freq", "vision_model.rotary_embedding.freqs_ci"),
    peft=False,
)
_META_LAYER = {
    "attention_norm.weight": "sa_norm.scale",
    **{f"attention.w{p}.weight": f"attn.{p}_proj.weight" for p in "qkv"},
    "attention.wo.weight": "attn.output_proj.weight",
    "feed_forward.norm.weight": "mlp_norm.scale",
    "feed_forward.router_DE": "mlp.router.gate.weight",
    "feed_forward.w_in_shared_FD.weight": "mlp.shared_expert.w1.weight",
    "feed_forward.w_out_shared_DF.weight": "mlp.shared_expert.w2.weight",
    "feed_forward.w_swiglu_FD.weight": "mlp.shared_expert.w3.weight",
    "feed_forward.experts.moe_w_in_eD_F": "mlp.experts.gate_proj",
    "feed_forward.experts.moe_w_out_eF_D": "mlp.experts.down_proj",
    "feed_forward.experts.moe_w_swiglu_eD_F": "mlp.experts.up_proj",
}
_META_VISION = "vision_embeddings.vision_encoder."
_META_BLOCK = kinds(
    {
        **{f"attn.w{p}": f"attn.{p}_proj" for p in "qkv"},
        "attn.wo": "attn.output_proj",
        "mlp.c_fc": "mlp.w1",
        "mlp.c_proj": "mlp.w2",
        "ln_1": "sa_norm",
        "ln_2": "mlp_norm",
    }
)
_META = KeyMap(
    "Llama 4 (Meta)",
    {
        theirs: (ours,)
        for theirs, ours in {
            "tok_embeddings.weight": "decoder.tok_embeddings.weight",
            "norm.weight": "decoder.norm.scale",
            "output.weight": "decoder.output.weight",
            **{"layers.{}." + k: _LAYER + v for k, v in _META_LAYER.items()},
            _META_VISION + "positional_embedding_vlm": _CLIP + "token_pos_embedding.positional_embedding",
            **kinds({f"{_META_VISION}ln_{n}": f"{_CLIP}ln_{n}" for n in ("pre", "post")}),
            _META_VISION + "class_embedding": _CLIP + "cls_token_embedding.weight",
            _META_VISION + "conv1._linear.weight": _CONV,
            **{
                f"{_META_VISION}transformer.resblocks.{{}}.{k}": f"{_CLIP}layers.{{}}.{v}"
                for k, v in _META_BLOCK.items()
            },
            "vision_embeddings.vision_adapter.mlp.c_fc.weight": _OUTPUT + "0.weight",
            "vision_embeddings.vision_adapter.mlp.c_proj.weight": _OUTPUT + "2.weight",
            "vision_projection.weight": _OUTPUT + "4.weight",
        }.items()
    },
    ignored=(
        "rope.freqs",
        "vision_adapter.fc.weight",
        "*expert_activation_DE*",
        # Statistics of the router's training; nothing computes with them.
        "*global_gate_stats_3E",
        "*running_gate_stats_3E",
    ),
    peft=False,
)


def _old_names(key: str) -> str:
    """Keys as transformers 5 holds them in memory, by the names of published checkpoints."""
    return key.removeprefix("model.") if key.startswith(("model.vision_model", "model.multi_modal")) else key


def llama4_hf_to_tune(state_dict: StateDict) -> StateDict:
    """Convert a Hugging Face Llama 4 checkpoint to ours."""
    split: StateDict = {}
    for key, value in state_dict.items():
        if key.endswith("experts.gate_up_proj"):
            gate, up = value.chunk(2, dim=-1)
            split[key.replace("gate_up_proj", "gate_proj")] = gate.contiguous()
            split[key.replace("gate_up_proj", "up_proj")] = up.contiguous()
        else:
            split[_old_names(key)] = value
    converted = convert_to_tune(split, _HF)
    if _CONV in converted:
        converted[_CONV] = to_conv(converted[_CONV])
    return converted


def llama4_tune_to_hf(state_dict: StateDict) -> StateDict:
    """The inverse of :func:`llama4_hf_to_tune`."""
    converted = convert_from_tune(state_dict, _HF)
    for key in [key for key in converted if key.endswith("experts.gate_proj")]:
        up = converted.pop(key.replace("gate_proj", "up_proj"))
        converted[key.replace("gate_proj", "gate_up_proj")] = torch.cat([converted.pop(key), up], dim=-1)
    conv = "vision_model.patch_embedding.linear.weight"
    if conv in converted:
        converted[conv] = converted[conv].flatten(1)
    return converted


def llama4_meta_to_tune(state_dict: StateDict) -> StateDict:
    """Convert Meta's Llama 4 checkpoint to ours."""
    fused_norm = ".attention.wqkv.layer_norm_weight"
    state_dict = {key.replace(fused_norm, ".attention_norm.weight"): value for key, value in state_dict.items()}
    converted = convert_to_tune(state_dict, _META)
    dim = converted["decoder.tok_embeddings.weight"].shape[1]
    for key, value in converted.items():
        if key.endswith("router.gate.weight"):
            converted[key] = value.T.contiguous()
        elif key.endswith(("experts.gate_proj", "experts.up_proj")):
            converted[key] = value.reshape(-1, dim, value.shape[1])
        elif key.endswith("experts.down_proj"):
            hidden = converted[key.replace("down", "gate")].shape[-1]
            converted[key] = value.reshape(-1, hidden, dim)
        elif key == _CONV:
            converted[key] = to_conv(value)
    return converted


def llama4_tune_to_meta(state_dict: StateDict) -> StateDict:
    """The inverse of :func:`llama4_meta_to_tune`."""
    changed: StateDict = {}
    for key, value in state_dict.items():
        if key.endswith("router.gate.weight"):
            value = value.T.contiguous()
        elif ".experts." in key:
            value = value.flatten(0, 1)
        elif key == _CONV:
            value = value.flatten(1)
        changed[key] = value
    return convert_from_tune(changed, _META)
