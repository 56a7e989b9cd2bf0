"""Builds a decoder from the folder of a Hugging Face checkpoint, its weights read a layer at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from torchtune.models._dense import NO_ADAPTER, Adapter, dense_decoder
from torchtune.models._families import family_of, spec_from_hf_config
from torchtune.modules import TransformerDecoder
from torchtune.modules.peft import get_adapter_params

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BOOL": torch.bool,
}
_PIECE = 2**20  # numbers that are cast at once


class _Safetensors:
    """A safetensors file whose tensors are read, not mapped: what is read and dropped takes no memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("rb")
        try:
            size = int.from_bytes(self._file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError(f"its header would have {size} bytes")
            self.entries: dict[str, dict[str, Any]] = json.loads(self._file.read(size))
        except ValueError as error:
            raise ValueError(f"{path} is no safetensors file: {error}. Download or copy it again.") from error
        self.entries.pop("__metadata__", None)
        self._start = 8 + size

    def like(self, key: str, dtype: torch.dtype) -> Tensor:
        """What reading a tensor gives, on the meta device: floats are in ``dtype``."""
        entry = self.entries[key]
        stored = _DTYPES[entry["dtype"]]
        return torch.empty(entry["shape"], dtype=dtype if stored.is_floating_point else stored, device="meta")

    def read(self, key: str, target: Tensor) -> None:
        """Read a tensor into another."""
        entry, flat = self.entries[key], target.view(-1)
        stored = _DTYPES[entry["dtype"]]
        self._file.seek(self._start + entry["data_offsets"][0])
        if target.dtype == stored:
            return self._fill(flat, key)
        piece = torch.empty(min(_PIECE, len(flat)), dtype=stored)
        for part in flat.split(_PIECE):
            self._fill(piece[: len(part)], key)
            part.copy_(piece[: len(part)])
        return None

    def _fill(self, flat: Tensor, key: str) -> None:
        if not flat.numel():
            return
        found = self._file.readinto(flat.view(torch.uint8).numpy().data)  # type: ignore[attr-defined]
        if found != flat.nbytes:
            raise ValueError(f"{self.path} ends within {key}: {flat.nbytes - found} bytes are missing. Copy it again.")


class _TorchFile:
    """A file of ``torch.save``, mapped."""

    def __init__(self, path: Path) -> None:
        from torchtune.training.checkpointing._utils import safe_torch_load

        self.entries: dict[str, Tensor] = safe_torch_load(path)

    def like(self, key: str, dtype: torch.dtype) -> Tensor:
        """What reading a tensor gives, on the meta device: floats are in ``dtype``."""
        tensor = self.entries[key]
        return torch.empty_like(tensor, dtype=dtype if tensor.is_floating_point() else None, device="meta")

    def read(self, key: str, target: Tensor) -> None:
        """Read a tensor into another."""
        target.copy_(self.entries[key])


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: the only one, or those of the index."""
    from torchtune.training.checkpointing._files import weight_files

    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file() and not (folder / f"{name}.index.json").is_file():
            return [folder / name]
    return weight_files(folder)


class _Arena:
    """Memory that the tensors of one layer after the other are read into: what stays is copied out of it, without holes."""

    def __init__(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, likes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of these shapes, whose contents hold until the next call."""
        ends = list(accumulate(-(-like.nbytes // 64) * 64 for like in likes.values()))
        if self.bytes.numel() < ends[-1]:
            self.bytes = torch.empty(ends[-1], dtype=torch.uint8)
        taken = {}
        for (key, like), start in zip(likes.items(), [0, *ends], strict=False):
            taken[key] = self.bytes[start : start + like.nbytes].view(like.dtype).view(like.shape)
        return taken

    def kept(self, tensor: Tensor) -> Tensor:
        """The tensor, copied if its memory is the arena's."""
        own = tensor.untyped_storage().data_ptr() != self.bytes.untyped_storage().data_ptr()
        return tensor if own else tensor.clone(memory_format=torch.contiguous_format)


def read_layers(folder: Path, dtype: torch.dtype, arena: _Arena) -> Iterator[dict[str, Tensor]]:
    """The tensors of a checkpoint in parts: each one outside of the layers, the largest first, then each layer.

    Each part, name to tensor, lies in ``arena`` and is to be used before the next one is asked for. What is a float gets
    ``dtype``. Missing or broken files are an error.
    """
    files = [(_Safetensors if path.suffix == ".safetensors" else _TorchFile)(path) for path in _weight_files(folder)]
    home = {key: file for file in files for key in file.entries}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, file in home.items():
        layer = re.match(r".*?layers\.\d+\.", key)
        parts.setdefault(layer[0] if layer else key, {})[key] = file.like(key, dtype)
    # The largest first: what is read later needs memory beside what is there already.
    for likes in sorted(parts.values(), key=lambda likes: (len(likes) > 1, -next(iter(likes.values())).nbytes)):
        alone = len(likes) == 1
        part = {k: torch.empty_like(like, device="cpu") for k, like in likes.items()} if alone else arena.take(likes)
        for key, target in part.items():
            home[key].read(key, target)
        yield part


def _assign(model: nn.Module, key: str, tensor: Tensor, wanted: int | None, folder: Path) -> None:
    """Make a tensor of ``wanted`` numbers the model's."""
    if wanted is None:
        raise ValueError(f"{folder} has weights for {key}, which the model of its config.json lacks")
    if tensor.numel() != wanted:
        raise ValueError(
            f"{key} of {folder} has the shape {tuple(tensor.shape)}, but config.json makes it {wanted} numbers"
        )
    owner, _, name = key.rpartition(".")
    model.get_submodule(owner).load_state_dict({name: tensor}, strict=False, assign=True)


def _start_adapters(model: nn.Module, device: torch.device) -> None:
    """Give the adapters memory and their first values."""
    for key, parameter in get_adapter_params(model).items():
        owner, _, name = key.rpartition(".")
        empty = nn.Parameter(torch.empty_like(parameter, device=device))
        setattr(model.get_submodule(owner), name, empty)
    for module in model.modules():
        if hasattr(module, "adapter_params"):
            module.initialize_parameters()  # type: ignore[operator]
            if hasattr(module, "initialize_dora_magnitude"):
                module.initialize_dora_magnitude()  # type: ignore[operator]


def _dtype(name: torch.dtype | str, device: torch.device) -> torch.dtype:
    from torchtune.training.precision import get_dtype

    found = name if isinstance(name, torch.dtype) else getattr(torch, name, None)
    return found if isinstance(found, torch.dtype) else get_dtype(str(name), device)


def from_pretrained(
    folder: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    lora: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    max_seq_len: int | None = None,
) -> TransformerDecoder:
    """Build the model of a Hugging Face checkpoint folder and load its weights.

    The weights are read a layer at a time: at its peak, loading safetensors takes 1.15 times the memory of the weights.

    Args:
        folder (str | Path): holds ``config.json``, whose ``model_type`` must be a known one, and the weights.
        dtype (torch.dtype | str | None): of the weights, such as ``torch.bfloat16`` or ``"bf16"``; None is that of
            config.json.
        lora (Mapping[str, Any] | None): options of the family's LoRA builder: ``lora_attn_modules``,
            ``apply_lora_to_mlp``, ``apply_lora_to_output``, ``lora_rank`` (8), ``lora_alpha`` (16), ``lora_dropout``,
            ``use_dora``, ``quantize_base``. None builds the full model.
        device (torch.device | str): where the model goes, tensor by tensor.
        max_seq_len (int | None): longest input; None is config.json's ``max_position_embeddings``.

    Returns:
        TransformerDecoder: token ids ``[b, s]`` to logits ``[b, s, vocab_size]``. Its base is not frozen: see
        :func:`~torchtune.modules.peft.set_trainable_params`.

    Raises:
        ValueError: where the architecture isn't built, or files don't hold what config.json says.
    """
    from torchtune.training.checkpointing._utils import get_path, read_json
    from torchtune.training.precision import set_default_dtype

    folder, device = Path(folder), torch.device(device)
    config = read_json(get_path(folder, "config.json"))
    family = family_of(config)
    text = family.text_config(config)
    chosen = _dtype(dtype or text.get("dtype") or text.get("torch_dtype") or "float32", device)
    try:
        adapter = Adapter.of(**{"lora_rank": 8, "lora_alpha": 16, **lora}) if lora is not None else NO_ADAPTER
    except TypeError as error:
        raise ValueError(f"lora holds {sorted(lora or ())}, which are no options of an adapter: {error}") from error
    with set_default_dtype(chosen):
        with torch.device("meta"):
            model = dense_decoder(spec_from_hf_config(config, max_seq_len), adapter)
        adapter_keys = get_adapter_params(model)
        wanted = {key: p.numel() for key, p in model.named_parameters() if key not in adapter_keys}
        loaded: set[str] = set()
        arena = _Arena()
        for part in read_layers(folder, chosen, arena):
            ours = family.to_tune(part, config)
            part.clear()
            for key in list(ours):
                _assign(model, key, arena.kept(ours.pop(key)).to(device, chosen), wanted.get(key), folder)
                loaded.add(key)
        if missing := sorted(wanted.keys() - loaded):
            raise ValueError(f"{folder} lacks weights of {missing[:5]} ({len(missing)} in all)")
        _start_adapters(model, device)
        with device:
            for module in model.modules():
                if hasattr(module, "rope_init"):
                    module.rope_init()  # type: ignore[operator]
    return model
