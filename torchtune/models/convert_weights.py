"""Weights between our layout and those of Hugging Face, Meta and PEFT checkpoints; both ways, without loss.

The mechanics are here, the facts in ``_key_maps``. The functions without a family's name serve the Llama layout (Llama,
Mistral, Gemma, SmolLM 2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch

from torchtune.models._key_maps import (
    GENERIC_HF,
    GENERIC_META,
    PEFT_PREFIX,
    PEFT_SUFFIXES,
    PEFT_TARGETS,
    REWARD_HF,
    KeyMap,
)

StateDict = dict[str, torch.Tensor]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def get_mapped_key(key: str, mapping_dict: Mapping[str, str]) -> str:
    """Look a key up in a table whose patterns have ``{}`` where keys have a layer number.

    Args:
        key (str): e.g. ``model.layers.3.self_attn.q_proj.weight``.
        mapping_dict (Mapping[str, str]): pattern to pattern.

    Returns:
        str: the other side's key, with the same numbers.

    Raises:
        KeyError: where the table lacks the key. (Also an ``Exception`` with upstream's phrase.)
    """
    pattern, numbers = _lookup(key, mapping_dict)
    return mapping_dict[pattern].format(*numbers)


def _lookup(key: str, table: Mapping[str, Any], family: str | None = None) -> tuple[str, list[str]]:
    """The table's pattern for a key, and the numbers in the key's place of ``{}``."""
    numbers = _NUMBER.findall(key)
    if key in table:
        return key, []
    for count in (1, len(numbers)):
        pattern = _NUMBER.sub("{}", key, count=count)
        if pattern in table:
            return pattern, numbers[:count]
    raise UnexpectedKey(key, family)


class UnexpectedKey(KeyError):
    """A checkpoint key that the family's table doesn't have."""

    def __init__(self, key: str, family: str | None = None) -> None:
        self.key = key
        where = f" It isn't a key of the {family} layout." if family else ""
        self.message = (
            f'Error converting the state dict. Found unexpected key: "{key}". '
            f"Please make sure you're loading a checkpoint with the right format.{where}"
        )
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class HeadSizes:
    """Attention sizes that reordering and splitting need.

    Args:
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        dim (int): embedding size.
        head_dim (int | None): size of a head; None is ``dim // num_heads``.
    """

    num_heads: int
    num_kv_heads: int
    dim: int
    head_dim: int | None = None

    @property
    def size(self) -> int:
        """Size of one head."""
        return self.head_dim or self.dim // self.num_heads

    def rows(self, key: str) -> int:
        """Rows of the projection that ``key`` belongs to."""
        return self.size * (self.num_heads if "q_proj" in key else self.num_kv_heads)


def _reorder_rows(tensor: torch.Tensor, key: str, sizes: HeadSizes, to_tune: bool) -> torch.Tensor:
    """Rows of a q or k tensor between halves apart (theirs) and neighbouring pairs (ours)."""
    if tensor.shape[0] != sizes.rows(key):
        raise ValueError(
            f"{key} has {tensor.shape[0]} rows; num_heads={sizes.num_heads}, num_kv_heads={sizes.num_kv_heads}, "
            f"dim={sizes.dim}, head_dim={sizes.size} make it {sizes.rows(key)}. Pass the sizes of the model's config.json."
        )
    split = (2, sizes.size // 2) if to_tune else (sizes.size // 2, 2)
    return tensor.unflatten(0, (-1, *split)).transpose(1, 2).flatten(0, 2)


def _short(key: str) -> str:
    """``layers.3.attn.q_proj.weight`` -> ``attn.q_proj``; what comes before ``layers`` stays."""
    return re.sub(r"layers\.\d+\.", "", key, count=1).rsplit(".", 1)[0]


def _split_sizes(parts: Sequence[str], rows: int, sizes: HeadSizes | None) -> list[int]:
    """Rows of each of our tensors in one fused tensor; equal shares where they aren't attention projections."""
    if sizes is None or "q_proj" not in parts[0]:
        if rows % len(parts):
            raise ValueError(f"{rows} rows don't split into {len(parts)} equal parts for {list(parts)}")
        return [rows // len(parts)] * len(parts)
    wanted = [sizes.rows(part) for part in parts]
    if sum(wanted) != rows:
        raise ValueError(f"a fused tensor of {rows} rows doesn't hold {dict(zip(parts, wanted, strict=True))} rows")
    return wanted


def convert_to_tune(
    state_dict: Mapping[str, torch.Tensor], key_map: KeyMap, sizes: HeadSizes | None = None
) -> StateDict:
    """Convert a checkpoint of another layout to ours.

    Args:
        state_dict (Mapping[str, torch.Tensor]): their tensors.
        key_map (KeyMap): the layout.
        sizes (HeadSizes | None): attention sizes, needed where rows are reordered or split unevenly.

    Returns:
        StateDict: our tensors; views where nothing moved.

    Raises:
        UnexpectedKey: where a key isn't in the table.
        ValueError: where a tensor doesn't have the rows that ``sizes`` say.
    """
    converted: StateDict = {}
    experts: dict[str, dict[int, torch.Tensor]] = {}
    for key, tensor in state_dict.items():
        if any(fnmatch(key, pattern) for pattern in key_map.ignored):
            continue
        pattern, numbers = _lookup(key, key_map.pairs, key_map.name)
        parts = [part.format(*numbers) for part in key_map.pairs[pattern]]
        if pattern in key_map.stacked:
            experts.setdefault(parts[0], {})[int(numbers[1])] = tensor
            continue
        if pattern in key_map.interleaved:
            pieces: Sequence[torch.Tensor] = [tensor[..., i :: len(parts)].contiguous() for i in range(len(parts))]
        else:
            pieces = [tensor] if len(parts) == 1 else tensor.split(_split_sizes(parts, tensor.shape[0], sizes))
        for part, piece in zip(parts, pieces, strict=True):
            if sizes is not None and _short(part) in key_map.permuted:
                piece = _reorder_rows(piece, part, sizes, to_tune=True)
            converted[part] = piece
    return converted | {key: _stack(key, matrices) for key, matrices in experts.items()}


def _stack(key: str, matrices: dict[int, torch.Tensor]) -> torch.Tensor:
    """The matrices of all experts in one tensor, transposed; they are taken out of the dict one by one."""
    count = len(matrices)
    missing = sorted(set(range(max(matrices) + 1)) - set(matrices))
    if missing:
        raise ValueError(f"{key} is made of all experts' matrices; those of experts {missing} are missing")
    rows, columns = matrices[0].shape
    stacked = matrices[0].new_empty(count, columns, rows)
    for number in range(count):
        stacked[number] = matrices.pop(number).T
    return stacked


def convert_from_tune(
    state_dict: Mapping[str, torch.Tensor], key_map: KeyMap, sizes: HeadSizes | None = None
) -> StateDict:
    """Convert our tensors to another layout; the inverse of :func:`convert_to_tune`.

    Args:
        state_dict (Mapping[str, torch.Tensor]): our tensors.
        key_map (KeyMap): the layout.
        sizes (HeadSizes | None): attention sizes, needed where rows are reordered.

    Returns:
        StateDict: their tensors.

    Raises:
        UnexpectedKey: where a key isn't in the table.
        ValueError: where a part of a fused tensor is missing, or a tensor doesn't have the rows that ``sizes`` say.
    """
    converted: StateDict = {}
    for key, tensor in state_dict.items():
        pattern, numbers = _lookup(key, key_map.inverse, f"torchtune {key_map.name}")
        template = key_map.inverse[pattern]
        parts = [part.format(*numbers) for part in key_map.pairs[template]]
        if template in key_map.stacked:
            converted |= {template.format(*numbers, i): matrix.T.contiguous() for i, matrix in enumerate(tensor)}
            continue
        theirs = template.format(*numbers)
        if theirs in converted:
            continue
        missing = [part for part in parts if part not in state_dict]
        if missing:
            raise ValueError(f"{theirs} is made of {parts}, but the state dict lacks {missing}")
        if sizes is not None and _short(key) in key_map.permuted:
            tensor = _reorder_rows(tensor, key, sizes, to_tune=False)
        pieces = [state_dict[part] for part in parts]
        if template in key_map.interleaved:
            converted[theirs] = torch.stack(pieces, dim=-1).flatten(-2)
        else:
            converted[theirs] = tensor if len(parts) == 1 else torch.cat(pieces)
    return converted


def hf_to_tune(
    state_dict: StateDict, num_heads: int = 32, num_kv_heads: int = 32, dim: int = 4096, head_dim: int | None = None
) -> StateDict:
    """Convert a Hugging Face checkpoint of the Llama layout to ours.

    Args:
        state_dict (StateDict): Hugging Face tensors.
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        dim (int): embedding size.
        head_dim (int | None): size of a head; None is ``dim // num_heads``.

    Returns:
        StateDict: our tensors.

    Raises:
        UnexpectedKey: for a key that the layout lacks, biases included.
    """
    return convert_to_tune(state_dict, GENERIC_HF, HeadSizes(num_heads, num_kv_heads, dim, head_dim))


def tune_to_hf(
    state_dict: StateDict, num_heads: int = 32, num_kv_heads: int = 32, dim: int = 4096, head_dim: int | None = None
) -> StateDict:
    """Convert our tensors to a Hugging Face checkpoint of the Llama layout; the inverse of :func:`hf_to_tune`.

    Args:
        state_dict (StateDict): our tensors.
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        dim (int): embedding size.
        head_dim (int | None): size of a head; None is ``dim // num_heads``.

    Returns:
        StateDict: Hugging Face tensors.
    """
    return convert_from_tune(state_dict, GENERIC_HF, HeadSizes(num_heads, num_kv_heads, dim, head_dim))


def meta_to_tune(state_dict: StateDict) -> StateDict:
    """Convert a checkpoint in Meta's own Llama layout to ours.

    Args:
        state_dict (StateDict): Meta's tensors.

    Returns:
        StateDict: our tensors.
    """
    return convert_to_tune(state_dict, GENERIC_META)


def tune_to_meta(state_dict: StateDict) -> StateDict:
    """Convert our tensors to Meta's own Llama layout; the inverse of :func:`meta_to_tune`.

    Args:
        state_dict (StateDict): our tensors.

    Returns:
        StateDict: Meta's tensors.
    """
    return convert_from_tune(state_dict, GENERIC_META)


def reward_hf_to_tune(
    state_dict: StateDict, num_heads: int = 32, num_kv_heads: int = 32, dim: int = 4096, head_dim: int | None = None
) -> StateDict:
    """Convert a Hugging Face sequence classifier with one score (a reward model) to ours.

    Args:
        state_dict (StateDict): Hugging Face tensors; ``score.weight`` becomes ``output.weight``, a score bias is left out.
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        dim (int): embedding size.
        head_dim (int | None): size of a head; None is ``dim // num_heads``.

    Returns:
        StateDict: our tensors.
    """
    return convert_to_tune(state_dict, REWARD_HF, HeadSizes(num_heads, num_kv_heads, dim, head_dim))


def reward_tune_to_hf(
    state_dict: StateDict, num_heads: int = 32, num_kv_heads: int = 32, dim: int = 4096, head_dim: int | None = None
) -> StateDict:
    """Convert our reward model to a Hugging Face sequence classifier; the inverse of :func:`reward_hf_to_tune`.

    Args:
        state_dict (StateDict): our tensors.
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        dim (int): embedding size.
        head_dim (int | None): size of a head; None is ``dim // num_heads``.

    Returns:
        StateDict: Hugging Face tensors.
    """
    return convert_from_tune(state_dict, REWARD_HF, HeadSizes(num_heads, num_kv_heads, dim, head_dim))


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
        ranks' sum, by ``rank_pattern`` and ``alpha_pattern``.

    Raises:
        ValueError: where a required key is missing or a target isn't known.
    """
    missing = [key for key in ("target_modules", "r", "lora_alpha") if key not in adapter_config]
    if missing:
        raise ValueError(f"PEFT adapter config requires target_modules, r and lora_alpha; missing: {missing}")
    names = list(adapter_config["target_modules"])
    unknown = [name for name in names if name not in PEFT_TARGETS]
    if unknown:
        raise ValueError(f"Unknown target module {unknown[0]}; known are {list(PEFT_TARGETS)}")
    targets = [key_map.targets.get(name) or PEFT_TARGETS[name] for name in names]
    config = {**adapter_config, "target_modules": list(dict.fromkeys(targets))}
    sums = {name: targets.count(name) for name in targets if targets.count(name) > 1}
    if sums:
        config["rank_pattern"] = {name: count * config["r"] for name, count in sums.items()}
        config["alpha_pattern"] = {name: count * config["lora_alpha"] for name, count in sums.items()}
    if base_model_name_or_path:
        config["base_model_name_or_path"] = base_model_name_or_path
    return config


def tune_to_peft_adapter_weights(
    state_dict: StateDict,
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
    key_map: KeyMap = GENERIC_HF,
) -> StateDict:
    """Convert our adapter weights to PEFT's.

    Output rows (``lora_b`` and DoRA's magnitude) are reordered for q and k exactly where the family's weights are. Adapters of
    layers that the layout fuses (Phi-3) become one, whose ``lora_B`` is zero outside of each layer's own block.

    Args:
        state_dict (StateDict): our adapter tensors.
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        dim (int): embedding size.
        head_dim (int | None): size of a head; None is ``dim // num_heads``.
        key_map (KeyMap): the base model's layout.

    Returns:
        StateDict: the tensors of ``adapter_model.safetensors``.

    Raises:
        UnexpectedKey: for a key that isn't an adapter's of this layout.
        ValueError: where PEFT has no such adapter.
    """
    _require_peft(key_map)
    sizes = HeadSizes(num_heads, num_kv_heads, dim, head_dim)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state_dict.items():
        suffix = next((suffix for suffix in PEFT_SUFFIXES if key.endswith("." + suffix)), None)
        if suffix is None:
            raise UnexpectedKey(key, f"{key_map.name} adapter")
        weight = key[: -len(suffix)] + "weight"
        if suffix != "lora_a.weight" and _short(weight) in key_map.permuted:
            tensor = _reorder_rows(tensor, key, sizes, to_tune=False)
        layers.setdefault(weight, {})[suffix] = tensor
    converted: StateDict = {}
    for weight in layers:
        pattern, numbers = _lookup(weight, key_map.inverse, f"torchtune {key_map.name}")
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
) -> StateDict:
    """Convert PEFT's adapter weights to ours; the inverse of :func:`tune_to_peft_adapter_weights`.

    An adapter of fused layers that wasn't made of single ones gives each of them its whole ``lora_A``.

    Args:
        state_dict (StateDict): the tensors of ``adapter_model.safetensors``.
        num_heads (int): query heads.
        num_kv_heads (int): key and value heads.
        dim (int): embedding size.
        head_dim (int | None): size of a head; None is ``dim // num_heads``.
        key_map (KeyMap): the base model's layout.

    Returns:
        StateDict: our adapter tensors.

    Raises:
        UnexpectedKey: for a key that isn't an adapter's of this layout.
        ValueError: where PEFT has no such adapter.
    """
    _require_peft(key_map)
    sizes = HeadSizes(num_heads, num_kv_heads, dim, head_dim)
    suffixes = {theirs: ours for ours, theirs in PEFT_SUFFIXES.items()}
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state_dict.items():
        suffix = next((suffix for suffix in suffixes if key.endswith("." + suffix)), None)
        if suffix is None or not key.startswith(PEFT_PREFIX):
            raise UnexpectedKey(key, f"PEFT {key_map.name} adapter")
        layers.setdefault(key[len(PEFT_PREFIX) : -len(suffix)] + "weight", {})[suffixes[suffix]] = tensor
    converted: StateDict = {}
    for theirs, adapter in layers.items():
        pattern, numbers = _lookup(theirs, key_map.pairs, f"PEFT {key_map.name} adapter")
        parts = [part.format(*numbers) for part in key_map.pairs[pattern]]
        pieces = {parts[0]: adapter} if len(parts) == 1 else split_adapter(adapter, parts, sizes)
        for part, piece in pieces.items():
            for suffix, tensor in piece.items():
                if suffix != "lora_a.weight" and _short(part) in key_map.permuted:
                    tensor = _reorder_rows(tensor, part, sizes, to_tune=True)
                converted[part.removesuffix("weight") + suffix] = tensor
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
    rows = dict(zip(parts, b.split(_split_sizes(parts, b.shape[0], sizes)), strict=True))
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
