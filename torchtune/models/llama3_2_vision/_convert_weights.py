"""Weights of Llama 3.2 Vision.

Hugging Face counts a layer of cross-attention as a layer of its own; here it is the ``fusion_layer`` of the next layer of
self-attention. Hugging Face holds the embeddings of tiles by aspect ratio, here (and with Meta) they are a grid of places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchtune.models._convert import HeadSizes, StateDict, convert_from_tune, convert_to_tune, to_conv
from torchtune.models._key_maps import GENERIC_HF, GENERIC_META, KeyMap, kinds, of_layer

ASPECT_RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
_CLIP = "encoder.clip."
_SELF = of_layer(GENERIC_HF)
_CROSS = {
    **{key.replace("self_attn", "cross_attn"): ours for key, ours in _SELF.items()},
    "input_layernorm.weight": "ca_norm.scale",
    "cross_attn.q_norm.weight": "attn.q_norm.scale",
    "cross_attn.k_norm.weight": "attn.k_norm.scale",
    "cross_attn_attn_gate": "ca_scale.scale",
    "cross_attn_mlp_gate": "mlp_scale.scale",
}
_TEXT_TOP = {
    "language_model.model.embed_tokens.weight": "decoder.tok_embeddings.weight",
    "language_model.model.norm.weight": "decoder.norm.scale",
    "language_model.lm_head.weight": "decoder.output.weight",
}
_VISION_TOP = {
    "gated_positional_embedding.embedding": "token_pos_embedding.local_token_positional_embedding",
    "gated_positional_embedding.tile_embedding.weight": "token_pos_embedding.global_token_positional_embedding",
    "gated_positional_embedding.gate": "token_pos_embedding.gate",
    **kinds({"layernorm_pre": "ln_pre", "layernorm_post": "ln_post"}),
    "pre_tile_positional_embedding.embedding.weight": "pre_tile_pos_embed.embedding",
    "pre_tile_positional_embedding.gate": "pre_tile_pos_embed.gate",
    "post_tile_positional_embedding.embedding.weight": "post_tile_pos_embed.embedding",
    "post_tile_positional_embedding.gate": "post_tile_pos_embed.gate",
    "class_embedding": "cls_token_embedding.weight",
    "patch_embedding.weight": "conv.weight",
}
_VISION_LAYER = {
    **{f"self_attn.{p}_proj.weight": f"attn.{p}_proj.weight" for p in "qkv"},
    "self_attn.o_proj.weight": "attn.output_proj.weight",
    **kinds({"mlp.fc1": "mlp.w1", "mlp.fc2": "mlp.w2"}),
    **kinds({"input_layernorm": "sa_norm", "post_attention_layernorm": "mlp_norm"}),
}
_GATES = {"gate_attn": "sa_scale.scale", "gate_ffn": "mlp_scale.scale"}
_PROJECTOR = kinds({"multi_modal_projector": "encoder.projection.output"})
# Our tensors that are a grid of tiles: [tiles, tiles, n, d].
_GRIDS = tuple(
    _CLIP + ours
    for ours in _VISION_TOP.values()
    if ours.endswith(("embed.embedding", "global_token_positional_embedding"))
)
_TOKENS, _FUSION_TOKENS = "decoder.tok_embeddings.weight", "decoder.tok_embeddings.fusion_embedding.weight"


def _hf_map(num_layers: int, cross_attention_layers: Sequence[int]) -> KeyMap:
    """The key map of a model with ``num_layers`` layers by Hugging Face's count."""
    pairs: dict[str, str] = {**_TEXT_TOP, **_PROJECTOR}
    passed = 0
    for layer in range(num_layers):
        cross = layer in cross_attention_layers
        ours = f"decoder.layers.{layer - passed}." + ("fusion_layer." if cross else "")
        pairs |= {f"language_model.model.layers.{layer}.{k}": ours + v for k, v in (_CROSS if cross else _SELF).items()}
        passed += cross
    pairs |= {"vision_model." + k: _CLIP + v for k, v in _VISION_TOP.items()}
    for theirs, parts, gates in (("transformer", _CLIP, {}), ("global_transformer", "encoder.projection.", _GATES)):
        table = {**_VISION_LAYER, **gates}
        pairs |= {f"vision_model.{theirs}.layers.{{}}.{k}": f"{parts}layers.{{}}.{v}" for k, v in table.items()}
    return KeyMap(
        "Llama 3.2 Vision",
        {theirs: (ours,) for theirs, ours in pairs.items()},
        permuted=frozenset({"decoder.attn.q_proj", "decoder.attn.k_proj"}),
        ignored=("*rotary_emb.inv_freq",),
        peft=False,
    )


def _grid_from_ratios(rows: torch.Tensor, grid_size: int, ratios: Sequence[Sequence[int]], dim: int) -> torch.Tensor:
    """From a row per aspect ratio (the first is padding) to a grid of places; places that no ratio has stay zero."""
    rows = rows.view(rows.shape[0], grid_size, -1, dim)
    grid = rows.new_zeros(grid_size, grid_size, rows.shape[2], dim)
    for index, (height, width) in enumerate(ratios, start=1):
        grid[:height, :width] = rows[index, : height * width].unflatten(0, (height, width))
    return grid


def _ratios_from_grid(grid: torch.Tensor, ratios: Sequence[Sequence[int]]) -> torch.Tensor:
    """The inverse of :func:`_grid_from_ratios`."""
    rows = grid.new_zeros(len(ratios) + 1, grid.shape[0], *grid.shape[2:])
    for index, (height, width) in enumerate(ratios, start=1):
        rows[index, : height * width] = grid[:height, :width].flatten(0, 1)
    return rows.flatten(1)


def _old_names(key: str) -> str:
    """Keys as transformers 5 holds them in memory, by the names of published checkpoints."""
    if key.startswith("model.language_model."):
        return "language_model.model." + key.removeprefix("model.language_model.")
    if key.startswith("lm_head."):
        return "language_model." + key
    return key.removeprefix("model.")


def llama3_vision_hf_to_tune(
    state_dict: StateDict,
    num_heads: int = 32,
    num_kv_heads: int = 8,
    dim: int = 4096,
    head_dim: int | None = None,
    vocab_size: int = 128_256,
    cross_attention_layers: Sequence[int] | None = None,
    encoder_dim: int = 1280,
    tile_size: int = 448,
    num_tiles: int = 4,
    supported_aspect_ratios: Sequence[Sequence[int]] | None = None,
) -> StateDict:
    """Convert a Hugging Face Llama 3.2 Vision checkpoint, all of its tensors, to ours.

    ``num_heads``, ``num_kv_heads``, ``dim`` and ``head_dim`` are the decoder's, ``encoder_dim`` is the image encoder's;
    ``vocab_size`` doesn't count the tokens added for images. ``cross_attention_layers`` are Hugging Face's numbers of these
    layers, None is 3, 8, 13, ...; ``supported_aspect_ratios`` tiles in height and width, in the config's order, None is that
    of the released models. ``tile_size`` is not needed.
    """
    state_dict = {_old_names(key): value for key, value in state_dict.items()}
    layers = [int(key.split(".")[3]) for key in state_dict if key.startswith("language_model.model.layers.")]
    num_layers = 1 + max(layers, default=-1)
    if cross_attention_layers is None:
        cross_attention_layers = range(3, num_layers, 5)
    ratios = supported_aspect_ratios or ASPECT_RATIOS
    key_map = _hf_map(num_layers, cross_attention_layers)
    converted = convert_to_tune(state_dict, key_map, HeadSizes(num_heads, num_kv_heads, dim, head_dim))
    if _TOKENS in converted:
        converted[_TOKENS], converted[_FUSION_TOKENS] = converted[_TOKENS].tensor_split([vocab_size])
    for key in _GRIDS:
        if key in converted:
            converted[key] = _grid_from_ratios(converted[key], num_tiles, ratios, encoder_dim)
    return converted


def llama3_vision_tune_to_hf(
    state_dict: StateDict,
    num_heads: int = 32,
    num_kv_heads: int = 8,
    dim: int = 4096,
    head_dim: int | None = None,
    vocab_size: int = 128_256,
    cross_attention_layers: Sequence[int] | None = None,
    encoder_dim: int = 1280,
    tile_size: int = 448,
    num_tiles: int = 4,
    supported_aspect_ratios: Sequence[Sequence[int]] | None = None,
) -> StateDict:
    """The inverse of :func:`llama3_vision_hf_to_tune`; ``cross_attention_layers`` None is where the fusion layers are.

    Embeddings of places that no aspect ratio has (such as row 2, column 3 of four tiles) have no place there; no image uses
    them. The other arguments are not needed.
    """
    state_dict = dict(state_dict)
    decoder = [key.split(".") for key in state_dict if key.startswith("decoder.layers.")]
    fused = sorted({int(parts[2]) for parts in decoder if parts[3] == "fusion_layer"})
    num_layers = 1 + max((int(parts[2]) for parts in decoder), default=-1) + len(fused)
    if cross_attention_layers is None:
        cross_attention_layers = [layer + before for before, layer in enumerate(fused)]
    if _FUSION_TOKENS in state_dict:
        state_dict[_TOKENS] = torch.cat([state_dict[_TOKENS], state_dict.pop(_FUSION_TOKENS)])
    for key in _GRIDS:
        if key in state_dict:
            state_dict[key] = _ratios_from_grid(state_dict[key], supported_aspect_ratios or ASPECT_RATIOS)
    key_map = _hf_map(num_layers, cross_attention_layers)
    return convert_from_tune(state_dict, key_map, HeadSizes(num_heads, num_kv_heads, dim, head_dim))


_META_SELF = of_layer(GENERIC_META)
_META_CROSS = {
    **_META_SELF,
    "attention_norm.weight": "ca_norm.scale",
    "attention.q_norm.weight": "attn.q_norm.scale",
    "attention.k_norm.weight": "attn.k_norm.scale",
    "gate_attn": "ca_scale.scale",
    "gate_ffwd": "mlp_scale.scale",
}
_META_BLOCK = {
    **{f"attn.w{p}.weight": f"attn.{p}_proj.weight" for p in "qkv"},
    "attn.wo.weight": "attn.output_proj.weight",
    **kinds({"mlp.c_fc": "mlp.w1", "mlp.c_proj": "mlp.w2", "ln_1": "sa_norm", "ln_2": "mlp_norm"}),
}
_META_TOP = {
    "text_model.tok_embeddings.weight": _TOKENS,
    "text_model.learnable_embedding.weight": _FUSION_TOKENS,
    "text_model.norm.weight": "decoder.norm.scale",
    "text_model.output.weight": "decoder.output.weight",
    **kinds({"vision_model.vision_projection": "encoder.projection.output"}),
}
_META_VISION = {
    "positional_embedding": "token_pos_embedding.local_token_positional_embedding",
    "gated_positional_embedding": "token_pos_embedding.global_token_positional_embedding",
    "gated_positional_embedding_gate": "token_pos_embedding.gate",
    **kinds({"ln_pre": "ln_pre", "ln_post": "ln_post"}),
    **{f"{n}_tile_pos_embed.{v}": f"{n}_tile_pos_embed.{v}" for n in ("pre", "post") for v in ("embedding", "gate")},
    "class_embedding": "cls_token_embedding.weight",
    "conv1._linear.weight": "conv.weight",
}


def _meta_map(num_layers: int, num_cross: int) -> KeyMap:
    """The key map of Meta's checkpoint: cross-attention layers are numbered apart, and sit at the end of each interval."""
    pairs = {**_META_TOP, **{f"text_model.layers.{{}}.{k}": f"decoder.layers.{{}}.{v}" for k, v in _META_SELF.items()}}
    for cross in range(num_cross):
        layer = (cross + 1) * (num_layers // num_cross) - 1
        ours = f"decoder.layers.{layer}.fusion_layer."
        pairs |= {f"text_model.cross_attention_layers.{cross}.{k}": ours + v for k, v in _META_CROSS.items()}
    encoder = "vision_model.vision_encoder."
    pairs |= {encoder + k: _CLIP + v for k, v in _META_VISION.items()}
    for theirs, ours, gates in (("transformer", _CLIP, {}), ("global_transformer", "encoder.projection.", _GATES)):
        table = {**_META_BLOCK, **gates}
        pairs |= {f"{encoder}{theirs}.resblocks.{{}}.{k}": f"{ours}layers.{{}}.{v}" for k, v in table.items()}
    return KeyMap(
        "Llama 3.2 Vision (Meta)",
        {theirs: (ours,) for theirs, ours in pairs.items()},
        ignored=("text_model.rope.freqs",),
        peft=False,
    )


def _count(state_dict: StateDict, prefix: str) -> int:
    place = prefix.count(".")
    return 1 + max((int(key.split(".")[place]) for key in state_dict if key.startswith(prefix)), default=-1)


def llama3_vision_meta_to_tune(state_dict: StateDict) -> StateDict:
    """Convert Meta's Llama 3.2 Vision checkpoint, all of its tensors, to ours."""
    crosses = _count(state_dict, "text_model.cross_attention_layers.")
    converted = convert_to_tune(state_dict, _meta_map(_count(state_dict, "text_model.layers."), crosses))
    conv = _CLIP + "conv.weight"
    if conv in converted:
        converted[conv] = to_conv(converted[conv])
    return converted


def llama3_vision_tune_to_meta(state_dict: StateDict) -> StateDict:
    """The inverse of :func:`llama3_vision_meta_to_tune`."""
    crosses = len({key.split(".")[2] for key in state_dict if ".fusion_layer." in key})
    key_map = _meta_map(_count(state_dict, "decoder.layers."), crosses)
    return {
        key: value.flatten(1) if key.endswith("conv1._linear.weight") else value
        for key, value in convert_from_tune(state_dict, key_map).items()
    }
