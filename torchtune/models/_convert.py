"""Weights between our layout and those of other checkpoints; both ways, without loss.

The mechanics are here, the facts in ``_key_maps``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from inspect import Parameter
from typing import Any

import torch

from torchtune.models._functions import make_function
from torchtune.models._key_maps import KeyMap

StateDict = dict[str, torch.Tensor]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def get_mapped_key(key: str, mapping_dict: Mapping[str, str]) -> str:
    """The key that a table has for another, with the same numbers, for which its patterns have ``{}``.

    Args:
        key (str): e.g. ``model.layers.3.self_attn.q_proj.weight``.
        mapping_dict (Mapping[str, str]): pattern to pattern.

    Raises:
        KeyError: where the table lacks the key. (Also an ``Exception`` with upstream's phrase.)
    """
    pattern, numbers = lookup(key, mapping_dict)
    return mapping_dict[pattern].format(*numbers)


def lookup(key: str, table: Mapping[str, Any], family: str | None = None) -> tuple[str, list[str]]:
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
    """A checkpoint key that the family's table doesn't have.

    Args:
        key (str): the key.
        family (str | None): what errors call the layout.
    """

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
    """Sizes that reordering and splitting need."""

    num_heads: int
    num_kv_heads: int
    dim: int
    head_dim: int | None = None  # None is dim // num_heads
    num_experts: int | None = None  # per layer, which only PEFT's adapters of experts need

    @property
    def size(self) -> int:
        """Size of one head."""
        return self.head_dim or self.dim // self.num_heads

    def rows(self, key: str) -> int:
        """Rows of the projection that ``key`` belongs to."""
        return self.size * (self.num_heads if "q_proj" in key else self.num_kv_heads)


def reorder_rows(tensor: torch.Tensor, key: str, sizes: HeadSizes, to_tune: bool) -> torch.Tensor:
    """Rows of a q or k tensor between halves apart (theirs) and neighbouring pairs (ours)."""
    if tensor.shape[0] != sizes.rows(key):
        raise ValueError(
            f"{key} has {tensor.shape[0]} rows; num_heads={sizes.num_heads}, num_kv_heads={sizes.num_kv_heads}, "
            f"dim={sizes.dim}, head_dim={sizes.size} make it {sizes.rows(key)}. Pass the sizes of the model's config.json."
        )
    split = (2, sizes.size // 2) if to_tune else (sizes.size // 2, 2)
    return tensor.unflatten(0, (-1, *split)).transpose(1, 2).flatten(0, 2)


def short_name(key: str) -> str:
    """``layers.3.attn.q_proj.weight`` -> ``attn.q_proj``; what comes before ``layers`` stays."""
    return re.sub(r"layers\.\d+\.", "", key, count=1).rsplit(".", 1)[0]


def split_sizes(parts: Sequence[str], rows: int, sizes: HeadSizes | None) -> list[int]:
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
    """Our tensors, views where nothing moved, from the layout's; an error for keys and rows that don't fit."""
    converted: StateDict = {}
    experts: dict[str, dict[int, torch.Tensor]] = {}
    for key, tensor in state_dict.items():
        if any(fnmatch(key, pattern) for pattern in key_map.ignored):
            continue
        pattern, numbers = lookup(key, key_map.pairs, key_map.name)
        parts = [part.format(*numbers) for part in key_map.pairs[pattern]]
        if pattern in key_map.stacked:
            experts.setdefault(parts[0], {})[int(numbers[1])] = tensor
            continue
        if pattern in key_map.interleaved:
            pieces: Sequence[torch.Tensor] = [tensor[..., i :: len(parts)].contiguous() for i in range(len(parts))]
        else:
            pieces = [tensor] if len(parts) == 1 else tensor.split(split_sizes(parts, tensor.shape[0], sizes))
        for part, piece in zip(parts, pieces, strict=True):
            if sizes is not None and short_name(part) in key_map.permuted:
                piece = reorder_rows(piece, part, sizes, to_tune=True)
            converted[part] = piece
    return converted | {key: _stack(key, matrices) for key, matrices in experts.items()}


def to_conv(weight: torch.Tensor) -> torch.Tensor:
    """The weight of a convolution over patches from that of a linear layer: ``[d, 3 * p * p] -> [d, 3, p, p]``."""
    side = math.isqrt(weight.shape[1] // 3)
    return weight.reshape(-1, 3, side, side)


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


def _join(pieces: Sequence[torch.Tensor], interleaved: bool) -> torch.Tensor:
    """One tensor of several, by rows or in turn in the last dimension."""
    first = pieces[0]
    if first.is_meta:  # where cat and stack would have torch import its compiler
        by_rows = (sum(len(piece) for piece in pieces), *first.shape[1:])
        return first.new_empty((*first.shape[:-1], first.shape[-1] * len(pieces)) if interleaved else by_rows)
    return torch.stack(list(pieces), dim=-1).flatten(-2) if interleaved else torch.cat(list(pieces))


def convert_from_tune(
    state_dict: Mapping[str, torch.Tensor], key_map: KeyMap, sizes: HeadSizes | None = None
) -> StateDict:
    """The layout's tensors from ours; the inverse of :func:`convert_to_tune`. All parts of a fused tensor are needed."""
    converted: StateDict = {}
    for key, tensor in state_dict.items():
        pattern, numbers = lookup(key, key_map.inverse, f"torchtune {key_map.name}")
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
        if sizes is not None and short_name(key) in key_map.permuted:
            tensor = reorder_rows(tensor, key, sizes, to_tune=False)
        joined = [state_dict[part] for part in parts]
        converted[theirs] = tensor if len(parts) == 1 else _join(joined, template in key_map.interleaved)
    return converted


_PARAMETERS: dict[str, tuple[Any, Any, str]] = {
    "num_heads": (int, 32, "query heads"),
    "num_kv_heads": (int, 32, "key and value heads"),
    "dim": (int, 4096, "embedding size"),
    "head_dim": ("int | None", None, "size of a head; None is ``dim // num_heads``"),
}
_TIED = "the output layer is the embedding: ``lm_head.weight`` is "


def weight_converters(
    prefix: str,
    checkpoint: str,
    layout: KeyMap,
    *,
    module: str,
    other: str = "hf",
    sizes: bool = True,
    tied: bool = False,
    writes_head: bool = False,
) -> tuple[Callable[..., StateDict], Callable[..., StateDict]]:
    """``<prefix>hf_to_tune`` and ``<prefix>tune_to_hf`` of a layout (``other`` is ``hf`` or ``meta``).

    ``checkpoint`` is what docstrings call one; ``sizes`` and ``tied`` say whether the two take attention sizes and
    ``tie_word_embeddings``, ``writes_head`` whether published checkpoints of tied models hold ``lm_head.weight`` too.
    """
    reorders = bool(layout.permuted)

    def to_tune(state_dict: StateDict, tie_word_embeddings: bool = False, **heads: Any) -> StateDict:
        kept = {k: v for k, v in state_dict.items() if not (tie_word_embeddings and k == "lm_head.weight")}
        return convert_to_tune(kept, layout, HeadSizes(**heads) if reorders else None)

    def to_other(state_dict: StateDict, tie_word_embeddings: bool = False, **heads: Any) -> StateDict:
        converted = convert_from_tune(state_dict, layout, HeadSizes(**heads) if reorders else None)
        if writes_head and tie_word_embeddings and "model.embed_tokens.weight" in converted:
            converted["lm_head.weight"] = converted["model.embed_tokens.weight"]
        return converted

    def make(name: str, body: Callable[..., StateDict], what: str, given: str, head: str) -> Callable[..., StateDict]:
        rows = dict(_PARAMETERS) if sizes else {}
        if sizes and not reorders:
            rows = {
                key: (kind, default, "not needed, as no rows are reordered") for key, (kind, default, _) in rows.items()
            }
        if tied:
            rows["tie_word_embeddings"] = (bool, False, _TIED + head)
        rows = {"state_dict": (StateDict, Parameter.empty, given), **rows}
        parameters = [
            Parameter(key, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
            for key, (kind, default, _) in rows.items()
        ]
        lines = [f"    {key} ({getattr(kind, '__name__', kind)}): {about}." for key, (kind, _, about) in rows.items()]
        lines[0] = f"    state_dict (StateDict): {given}."
        returned = "our tensors" if given != "our tensors" else f"tensors of {checkpoint}"
        doc = "\n".join(
            [f"{what}.", "", "Args:", *lines, "", "Returns:", f"    StateDict: {returned}.", "", "Raises:"]
            + ["    UnexpectedKey: for a key that the layout lacks."]
        )
        return make_function(name, module, parameters, doc, body, StateDict)

    loads, saves = f"{prefix}{other}_to_tune", f"{prefix}tune_to_{other}"
    return (
        make(loads, to_tune, f"Convert {checkpoint} to our layout", f"tensors of {checkpoint}", "left out"),
        make(
            saves,
            to_other,
            f"Convert our tensors to {checkpoint}; the inverse of :func:`{loads}`",
            "our tensors",
            "written too, as published checkpoints do" if writes_head else "not written either way",
        ),
    )
