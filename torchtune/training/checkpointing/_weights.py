"""Reading weights by memory map, and writing them tensor by tensor with a hash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from torchtune.training.checkpointing._folders import HashedFile, torch_save
from torchtune.training.checkpointing._utils import SAFETENSOR_INDEX_FNAME, SHARD_FNAME, TORCH_INDEX_FNAME

StateDict = dict[str, torch.Tensor]
Convert = Callable[[Mapping[str, torch.Tensor]], StateDict]

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def read_safetensors(path: Path) -> StateDict:
    """The tensors of a file, mapped: bytes are read when a tensor is used, and a write changes only our copy."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt", device="cpu") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator over the file itself)


def parse_size(size: str | int) -> int:
    """Bytes of a size such as ``"5GB"`` or ``"500MiB"``."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?))?B\s*", size.upper())
    if match is None:
        raise ValueError(f"max_shard_size is {size!r}; expected a number and a unit, such as '5GB'")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " "))


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def write_safetensors(
    path: Path, specs: Mapping[str, torch.Tensor], tensors: Iterable[tuple[str, torch.Tensor]]
) -> str:
    """Write a safetensors file, one tensor in memory at a time, in the order of ``specs``; gives its SHA-256."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, spec in specs.items():
        if spec.dtype not in _DTYPES:
            raise ValueError(f"{name} has dtype {spec.dtype}, which safetensors files can't hold")
        start, end = end, end + spec.numel() * spec.element_size()
        header[name] = {"dtype": _DTYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    expected = iter(specs.items())
    with HashedFile(path) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in tensors:
            want, spec = next(expected, ("nothing", tensor))
            if name != want or tensor.shape != spec.shape or tensor.dtype != spec.dtype:
                found = f"found {name} {tuple(tensor.shape)}, expected {want} {tuple(spec.shape)}"
                raise ValueError(f"{path.name}: {found}")
            if tensor.numel():
                file.write(_bytes(tensor))
        if (left := next(expected, None)) is not None:
            raise ValueError(f"{path.name}: {left[0]} was announced and not given")
    return file.sha256


def _groups(state_dict: Mapping[str, torch.Tensor]) -> Iterator[StateDict]:
    """The state dict in pieces that can be converted apart: one per layer, and of the rest each with its adapter."""
    groups: dict[str, StateDict] = {}
    for key, tensor in state_dict.items():
        match = re.match(r"(.*?layers\.\d+)\.|(.*?)\.(?:lora_[ab]\.weight|magnitude)$", key)
        name = key if match is None else match.group(1) or f"{match.group(2)}.weight"
        groups.setdefault(name, {})[key] = tensor
    yield from groups.values()


def _plan(specs: Mapping[str, torch.Tensor], max_bytes: int) -> list[list[str]]:
    """Names per shard, filled in order; a tensor over the limit gets a shard of its own."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        nbytes = spec.numel() * spec.element_size()
        if shards[-1] and size + nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards


def write_sharded(
    folder: Path,
    state_dict: Mapping[str, torch.Tensor],
    convert: Convert,
    *,
    max_shard_size: str | int = "5GB",
    safe_serialization: bool = True,
    by_layer: bool = True,
) -> dict[str, str]:
    """Write a model as shards and an index in another layout, layer by layer; gives SHA-256 by file."""
    groups = list(_groups(state_dict)) if by_layer else [dict(state_dict)]
    specs: StateDict = {}
    for group in groups:
        specs.update(convert({key: tensor.to("meta") for key, tensor in group.items()}))
    shards = _plan(specs, parse_size(max_shard_size))
    suffix, index_name = (".safetensors", SAFETENSOR_INDEX_FNAME) if safe_serialization else (".bin", TORCH_INDEX_FNAME)
    count = str(len(shards)).zfill(5)
    numbers = (str(i).zfill(5) for i in range(1, len(shards) + 1))
    files = [SHARD_FNAME.format(cpt_idx=number, num_shards=count) + suffix for number in numbers]

    def convert_one_by_one() -> Iterator[tuple[str, torch.Tensor]]:
        for group in groups:
            converted = convert(group)
            for name in list(converted):
                yield name, converted.pop(name)

    stream, hashes = convert_one_by_one(), {}
    for file, names in zip(files, shards, strict=True):
        part = (next(stream) for _ in names)
        if safe_serialization:
            hashes[file] = write_safetensors(folder / file, {name: specs[name] for name in names}, part)
        else:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in part}
            hashes[file] = torch_save(whole, folder / file)
    total = sum(spec.numel() * spec.element_size() for spec in specs.values())
    weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / index_name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return hashes


def read_weights(paths: Iterable[Path], weights_only: bool = True) -> StateDict:
    """The tensors of several files together."""
    from torchtune.training.checkpointing._utils import safe_torch_load

    merged: StateDict = {}
    origin: dict[str, Path] = {}
    for path in paths:
        loaded = safe_torch_load(path, weights_only=weights_only)
        for key, value in loaded.items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"Expected all values in the state dict to be torch.Tensor. Found {type(value)} at {key} in {path}"
                )
            if key in merged:
                raise ValueError(f"{key} is in both {origin[key]} and {path}; list each shard once in checkpoint_files")
            merged[key], origin[key] = value, path
    return merged
