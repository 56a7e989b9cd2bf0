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
    for key, tensor in state_dict.items():
        if any(fnmatch(key, pattern) for pattern in key_map.ignored):
            continue
        pattern, numbers = _lookup(key, key_map.pairs, key_map.name)
        parts = [part.format(*numbers) for part in key_map.pairs[pattern]]
        pieces = [tensor] if len(parts) == 1 else tensor.split(_split_sizes(parts, tensor.shape[0], sizes))
        for part, piece in zip(parts, pieces, strict=True):
            if sizes is not None and _short(part) in key_map.permuted:
                piece = _reorder_rows(piece, part, sizes, to_tune=True)
            converted[part] = piece
    return converted


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
        theirs = key_map.inverse[pattern]
        parts = [part.format(*numbers) for part in key_map.pairs[theirs]]
        theirs = theirs.format(*numbers)
        if theirs in converted:
            continue
        missing = [part for part in parts if part not in state_dict]
        if missing:
            raise ValueError(f"{theirs} is made of {parts}, but the state dict lacks {missing}")
        if sizes is not None and _short(key) in key_map.permuted:
            tensor = _reorder_rows(tensor, key, sizes, to_tune=False)
        converted[theirs] = tensor if len(parts) == 1 else torch.cat([state_dict[part] for part in parts])
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
    adapter_config: Mapping[str, Any], base_model_name_or_path: str | None = None
) -> dict[str, Any]:
    """Write an adapter's configuration with PEFT's names.

    Args:
        adapter_config (Mapping[str, Any]): ``target_modules`` (our names), ``r``, ``lora_alpha`` and what else is to be kept.
        base_model_name_or_path (str | None): the base model, so that PEFT finds it.

    Returns:
        dict[str, Any]: the contents of ``adapter_config.json``.

    Raises:
        ValueError: where a required key is missing or a target isn't known.
    """
    missing = [key for key in ("target_modules", "r", "lora_alpha") if key not in adapter_config]
    if missing:
        raise ValueError(f"PEFT adapter config requires target_modules, r and lora_alpha; missing: {missing}")
    unknown = [name for name in adapter_config["target_modules"] if name not in PEFT_TARGETS]
    if unknown:
        raise ValueError(f"Unknown target module {unknown[0]}; known are {list(PEFT_TARGETS)}")
    config = {**adapter_config, "target_modules": [PEFT_TARGETS[name] for name in adapter_config["target_modules"]]}
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

    Output rows (``lora_b`` and DoRA's magnitude) are reordered for q and k exactly where the family's weights are.

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
        ValueError: where the layout fuses layers that we adapt one by one (Phi-3).
    """
    _require_peft(key_map)
    sizes = HeadSizes(num_heads, num_kv_heads, dim, head_dim)
    table = {ours: theirs for ours, theirs in key_map.inverse.items() if ours.endswith(".weight")}
    converted: StateDict = {}
    for key, tensor in state_dict.items():
        suffix = next((suffix for suffix in PEFT_SUFFIXES if key.endswith("." + suffix)), None)
        if suffix is None:
            raise UnexpectedKey(key, f"{key_map.name} adapter")
        layer = key[: -len(suffix)]
        if suffix != "lora_a.weight" and _short(layer + "weight") in key_map.permuted:
            tensor = _reorder_rows(tensor, key, sizes, to_tune=False)
        theirs = get_mapped_key(layer + "weight", table).removesuffix("weight")
        converted[PEFT_PREFIX + theirs + PEFT_SUFFIXES[suffix]] = tensor
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
        ValueError: where the layout fuses layers that we adapt one by one (Phi-3).
    """
    _require_peft(key_map)
    sizes = HeadSizes(num_heads, num_kv_heads, dim, head_dim)
    table = {theirs: parts[0] for theirs, parts in key_map.pairs.items() if theirs.endswith(".weight")}
    suffixes = {theirs: ours for ours, theirs in PEFT_SUFFIXES.items()}
    converted: StateDict = {}
    for key, tensor in state_dict.items():
        suffix = next((suffix for suffix in suffixes if key.endswith("." + suffix)), None)
        if suffix is None or not key.startswith(PEFT_PREFIX):
            raise UnexpectedKey(key, f"PEFT {key_map.name} adapter")
        layer = get_mapped_key(key[len(PEFT_PREFIX) : -len(suffix)] + "weight", table)
        if suffix != "lora_A.weight" and _short(layer) in key_map.permuted:
            tensor = _reorder_rows(tensor, layer, sizes, to_tune=True)
        converted[layer.removesuffix("weight") + suffixes[suffix]] = tensor
    return converted


def _require_peft(key_map: KeyMap) -> None:
    if not key_map.peft:
        raise ValueError(
            f"{key_map.name} checkpoints hold q, k, v (and gate, up) in one tensor, which PEFT adapts as one; adapters of "
            "the single layers can't be written for PEFT. Save the merged weights instead (save_adapter_weights_only: false)."
        )
