"""Adapters in PEFT's layout: of linear layers, of layers that a checkpoint fuses, and of experts (``target_parameters``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from torchtune.models._convert import HeadSizes, StateDict, UnexpectedKey, lookup, reorder_rows, short_name, split_sizes
from torchtune.models._key_maps import GENERIC_HF, PEFT_PREFIX, PEFT_SUFFIXES, PEFT_TARGETS, KeyMap

_EXPERTS = "mlp.experts"  # in our names and in theirs


def tune_to_peft_adapter_config(
    adapter_config: Mapping[str, Any], base_model_name_or_path: str | None = None, key_map: KeyMap = GENERIC_HF
) -> dict[str, Any]:
    """Write an adapter's configuration with PEFT's names.

    Args:
        adapter_config (Mapping[str, Any]): ``target_modules`` (our names), ``r``, ``lora_alpha`` and what else is to be kept.
        base_model_name_or_path (str | None): the base model, so that PEFT finds it.
        key_map (KeyMap): the base model's layout.

    Returns:
        dict[str, Any]: the contents of ``adapter_config.json``. Adapters of layers that the layout fuses become one of their
        ranks' sum, by ``rank_pattern`` and ``alpha_pattern``; those of experts are ``target_parameters``.

    Raises:
        ValueError: where a required key is missing, a target isn't known, or PEFT has no such adapter.
    """
    missing = [key for key in ("target_modules", "r", "lora_alpha") if key not in adapter_config]
    if missing:
        raise ValueError(f"PEFT adapter config requires target_modules, r and lora_alpha; missing: {missing}")
    names = [name for name in adapter_config["target_modules"] if name != "experts"]
    unknown = [name for name in names if name not in PEFT_TARGETS]
    if unknown:
        raise ValueError(f"Unknown target module {unknown[0]}; known are {[*PEFT_TARGETS, 'experts']}")
    targets = [key_map.targets.get(name) or PEFT_TARGETS[name] for name in names]
    config = {**adapter_config, "target_modules": list(dict.fromkeys(targets))}
    sums = {name: targets.count(name) for name in targets if targets.count(name) > 1}
    if "experts" in adapter_config["target_modules"]:
        if adapter_config.get("use_dora"):
            raise ValueError("PEFT has no DoRA for experts (target_parameters): adapt attention only, or use LoRA")
        config["target_parameters"] = [f"{_EXPERTS}.gate_up_proj", f"{_EXPERTS}.down_proj"]
        sums[f"{_EXPERTS}.gate_up_proj"] = 2
    if sums:
        config["rank_pattern"] = {name: count * config["r"] for name, count in sums.items()}
        config["alpha_pattern"] = {name: count * config["lora_alpha"] for name, count in sums.items()}
    if base_model_name_or_path:
        config["base_model_name_or_path"] = base_model_name_or_path
    return config


def _by_layer(state_dict: Mapping[str, torch.Tensor], suffixes: Iterable[str], prefix: str, layout: str) -> Any:
    """An adapter's tensors by the weight that they belong to, then by suffix."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state_dict.items():
        suffix = next((suffix for suffix in suffixes if key.endswith("." + suffix)), None)
        if suffix is None or not key.startswith(prefix):
            raise UnexpectedKey(key, f"{layout} adapter")
        layers.setdefault(key[len(prefix) : -len(suffix)] + "weight", {})[suffix] = tensor
    return layers


def _reordered(key_map: KeyMap, weight: str, suffix: str, tensor: torch.Tensor, sizes: HeadSizes, to_tune: bool) -> Any:
    """A part of an adapter, its output rows in the other order where the weight's are."""
    moved = suffix != "lora_a.weight" and short_name(weight) in key_map.permuted
    return reorder_rows(tensor, weight, sizes, to_tune=to_tune) if moved else tensor


def tune_to_peft_adapter_weights(
    state_dict: StateDict,
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
    key_map: KeyMap = GENERIC_HF,
) -> StateDict:
    """The tensors of PEFT's ``adapter_model.safetensors`` from our adapter's.

    Output rows (``lora_b`` and DoRA's magnitude) are reordered for q and k exactly where the family's weights are. Adapters of
    layers that the layout fuses (Phi-3, gate and up of experts) become one, whose ``lora_B`` is zero outside of each layer's
    own block.

    Args:
        state_dict (StateDict): our adapter tensors.
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        dim (int): embedding size.
        head_dim (int | None): size of a head; None is ``dim // num_heads``.
        key_map (KeyMap): the base model's layout.

    Raises:
        UnexpectedKey: for a key that isn't an adapter's of this layout.
        ValueError: where PEFT has no such adapter, or ``num_experts`` is missing.
    """
    _require_peft(key_map)
    sizes = HeadSizes(num_heads, num_kv_heads, dim, head_dim)
    experts = {key: tensor for key, tensor in state_dict.items() if f"{_EXPERTS}.lora_" in key}
    converted = _experts_to_peft(experts, key_map)
    linear = {key: tensor for key, tensor in state_dict.items() if key not in experts}
    layers = _by_layer(linear, PEFT_SUFFIXES, "", key_map.name)
    for weight, adapter in layers.items():
        for suffix, tensor in adapter.items():
            adapter[suffix] = _reordered(key_map, weight, suffix, tensor, sizes, to_tune=False)
    for weight in layers:
        pattern, numbers = lookup(weight, key_map.inverse, f"torchtune {key_map.name}")
        theirs = key_map.inverse[pattern].format(*numbers).removesuffix("weight")
        parts = [part.format(*numbers) for part in key_map.pairs[key_map.inverse[pattern]]]
        adapter = layers[weight] if len(parts) == 1 else fuse_adapters(layers, parts, sizes)
        converted |= {PEFT_PREFIX + theirs + PEFT_SUFFIXES[suffix]: tensor for suffix, tensor in adapter.items()}
    return converted


def peft_to_tune_adapter_weights(
    state_dict: StateDict,
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
    key_map: KeyMap = GENERIC_HF,
    num_experts: int | None = None,
) -> StateDict:
    """The inverse of :func:`tune_to_peft_adapter_weights`; for the arguments see :func:`tune_to_peft_adapter_weights`.

    An adapter of fused layers that wasn't made of single ones gives each of them its whole ``lora_A``.

    Args:
        num_experts (int | None): experts per layer, where they have adapters.
    """
    _require_peft(key_map)
    sizes = HeadSizes(num_heads, num_kv_heads, dim, head_dim, num_experts)
    marks = (f"{_EXPERTS}.lora_", f"{_EXPERTS}.base_layer.lora_")
    experts = {key: tensor for key, tensor in state_dict.items() if any(mark in key for mark in marks)}
    converted = _experts_from_peft(experts, key_map, num_experts)
    linear = {key: tensor for key, tensor in state_dict.items() if key not in experts}
    ours = {theirs: suffix for suffix, theirs in PEFT_SUFFIXES.items()}
    for theirs, found in _by_layer(linear, ours, PEFT_PREFIX, f"PEFT {key_map.name}").items():
        pattern, numbers = lookup(theirs, key_map.pairs, f"PEFT {key_map.name} adapter")
        if pattern in key_map.stacked:
            raise UnexpectedKey(PEFT_PREFIX + theirs, f"PEFT {key_map.name} adapter (transformers 5)")
        parts = [part.format(*numbers) for part in key_map.pairs[pattern]]
        adapter = {ours[suffix]: tensor for suffix, tensor in found.items()}
        pieces = {parts[0]: adapter} if len(parts) == 1 else split_adapter(adapter, parts, sizes)
        for part, piece in pieces.items():
            for suffix, tensor in piece.items():
                tensor = _reordered(key_map, part, suffix, tensor, sizes, to_tune=True)
                converted[part.removesuffix("weight") + suffix] = tensor
    return converted


def _halves(width: int, key_map: KeyMap) -> tuple[slice, slice]:
    """Where gate and up stand among the outputs of ``gate_up_proj``."""
    if key_map.interleaved:
        return slice(0, width, 2), slice(1, width, 2)
    return slice(0, width // 2), slice(width // 2, width)


def _experts_to_peft(state_dict: Mapping[str, torch.Tensor], key_map: KeyMap) -> StateDict:
    """Adapters of experts: PEFT wraps ``down_proj`` around ``gate_up_proj``, and folds experts into the ranks.

    Its ``lora_A`` has the rows ``(expert, rank)``, its ``lora_B`` the columns ``(rank, expert)``.
    """
    converted: StateDict = {}
    for layer in dict.fromkeys(key.rpartition(".lora_")[0] for key in state_dict):
        a, b = ({n: state_dict[f"{layer}.lora_{n}_{f}"] for n in ("gate", "up", "down")} for f in "ab")
        experts, rank, width = b["gate"].shape
        both = b["gate"].new_zeros(experts, 2 * rank, 2 * width)
        gate, up = _halves(2 * width, key_map)
        both[:, :rank, gate], both[:, rank:, up] = b["gate"], b["up"]
        for name, first, second in (
            ("base_layer.", torch.cat([a["gate"], a["up"]], dim=2), both),
            ("", a["down"], b["down"]),
        ):
            prefix = f"{PEFT_PREFIX}model.{layer}.{name}"
            converted[f"{prefix}lora_A.weight"] = first.transpose(1, 2).flatten(0, 1).contiguous()
            converted[f"{prefix}lora_B.weight"] = second.permute(2, 1, 0).flatten(1).contiguous()
    return converted


def _experts_from_peft(state_dict: Mapping[str, torch.Tensor], key_map: KeyMap, num_experts: int | None) -> StateDict:
    """The inverse of :func:`_experts_to_peft`; one adapter of gate and up with the rank of down serves both."""
    if state_dict and not num_experts:
        raise ValueError("an adapter of experts needs num_experts, which its tensors don't tell")
    converted: StateDict = {}
    prefix = PEFT_PREFIX + "model."
    for layer in dict.fromkeys(key.partition(".experts.")[0] + ".experts" for key in state_dict):
        names = [f"{layer}{name}.lora_{f}.weight" for name in (".base_layer", "") for f in "AB"]
        missing = [name for name in names if name not in state_dict]
        if missing:
            raise ValueError(f"experts have adapters on gate_up_proj and down_proj alike; {missing} are missing")
        a_both, b_both, a_down, b_down = (state_dict[name] for name in names)
        a_both, a_down = (a.unflatten(0, (num_experts, -1)).transpose(1, 2) for a in (a_both, a_down))
        b_both, b_down = (b.unflatten(1, (-1, num_experts)).permute(2, 1, 0) for b in (b_both, b_down))
        gate, up = _halves(b_both.shape[2], key_map)
        rank = a_down.shape[2]
        one = a_both.shape[2] == rank
        ranks = (slice(0, rank), slice(0, rank) if one else slice(rank, None))
        if not one and (a_both.shape[2] != 2 * rank or b_both[:, :rank, up].any() or b_both[:, rank:, gate].any()):
            raise ValueError(
                f"{names[0]} has rank {a_both.shape[2]}, {names[2]} has {rank}: they need one rank, or twice as many with a "
                "block each for gate and up"
            )
        ours = layer.removeprefix(prefix)
        for name, a, b in (
            ("gate", a_both[..., ranks[0]], b_both[:, ranks[0], gate]),
            ("up", a_both[..., ranks[1]], b_both[:, ranks[1], up]),
            ("down", a_down, b_down),
        ):
            converted[f"{ours}.lora_{name}_a"], converted[f"{ours}.lora_{name}_b"] = a.contiguous(), b.contiguous()
    return converted


def fuse_adapters(
    layers: Mapping[str, dict[str, torch.Tensor]], parts: Sequence[str], sizes: HeadSizes
) -> dict[str, torch.Tensor]:
    """One adapter of a fused layer from those of its parts: the same function, of the sum of their ranks."""
    present = [part for part in parts if part in layers]
    rows = {part: layers[part]["lora_b.weight"].shape[0] for part in present}
    rows |= {p: sizes.rows(p) if "attn" in p else rows[present[0]] for p in parts if p not in rows}
    fused = {"lora_a.weight": torch.cat([layers[part]["lora_a.weight"] for part in present])}
    first = layers[present[0]]["lora_b.weight"]
    blocks = [layers[part]["lora_b.weight"] if part in layers else first.new_zeros(rows[part], 0) for part in parts]
    fused["lora_b.weight"] = torch.block_diag(*blocks)
    if any("magnitude" in layers[part] for part in present):
        if len(present) < len(parts):
            raise ValueError(
                f"DoRA adapters of {present} without {sorted(set(parts) - set(present))} can't be written for PEFT, which "
                "has one magnitude for the fused layer: adapt all of them, or none, or use LoRA"
            )
        fused["magnitude"] = torch.cat([layers[part]["magnitude"] for part in parts])
    return fused


def split_adapter(
    adapter: Mapping[str, torch.Tensor], parts: Sequence[str], sizes: HeadSizes
) -> dict[str, dict[str, torch.Tensor]]:
    """The adapters of a fused layer's parts; the inverse of :func:`fuse_adapters`."""
    a, b = adapter["lora_a.weight"], adapter["lora_b.weight"]
    rows = dict(zip(parts, b.split(split_sizes(parts, b.shape[0], sizes)), strict=True))
    present = [part for part in parts if rows[part].any()] or list(parts)
    rank = a.shape[0] // len(present)
    columns = {part: slice(index * rank, (index + 1) * rank) for index, part in enumerate(present)}
    own = torch.block_diag(*(rows[part][:, columns[part]] for part in present))
    if a.shape[0] % len(present) or not torch.equal(own, torch.cat([rows[part] for part in present])):
        columns = {part: slice(None) for part in present}
    split = {
        part: {"lora_a.weight": a[columns[part]], "lora_b.weight": rows[part][:, columns[part]]} for part in present
    }
    if "magnitude" in adapter:
        magnitudes = adapter["magnitude"].split([len(rows[part]) for part in parts])
        for part, magnitude in zip(parts, magnitudes, strict=True):
            split.setdefault(part, {})["magnitude"] = magnitude
    return split


def _require_peft(key_map: KeyMap) -> None:
    if not key_map.peft:
        raise ValueError(
            f"Adapters of {key_map.name} models can't be written for PEFT, which has no adapter for their layers. "
            "Save the merged weights instead (save_adapter_weights_only: false)."
        )
