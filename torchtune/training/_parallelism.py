"""How a recipe is spread over ranks: meshes, and one object that does what each of the config's dims asks for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from torchtune.training._context_parallel import apply_context_parallel, own_part
from torchtune.training._distributed import get_world_size_and_rank
from torchtune.training._sharding import get_shard_conditions, shard_model
from torchtune.training.quantization import _validate_float8_tp_plan, convert_to_float8_training


@dataclass
class ParallelDims:
    """How many ranks each kind of parallelism takes; their product is the world size.

    Args:
        dp_replicate: copies of the sharded model (HSDP).
        dp_shard: ranks that a copy is sharded over (FSDP); -1 takes what the others leave.
        tp: ranks of tensor parallel.
        cp: ranks of context parallel.
        world_size: all ranks.

    Raises:
        ValueError: if a value isn't positive, or the product isn't the world size.
    """

    dp_replicate: int
    dp_shard: int
    tp: int
    cp: int
    world_size: int

    def __post_init__(self) -> None:
        others = self.dp_replicate * self.tp * self.cp
        if min(self.dp_replicate, self.tp, self.cp) < 1 or (self.dp_shard < 1 and self.dp_shard != -1):
            raise ValueError(f"Parallel dims must be 1 or more (dp_shard may be -1 for the rest), found {self}")
        if self.dp_shard == -1:
            self.dp_shard = max(1, self.world_size // others)
        if self.dp_shard * others != self.world_size:
            raise ValueError(
                f"Invalid parallel dims: dp_replicate({self.dp_replicate}) * dp_shard({self.dp_shard}) * tp({self.tp}) * "
                f"cp({self.cp}) != WORLD_SIZE({self.world_size}). Change the dims, or --nproc-per-node."
            )

    def build_mesh(self, device_type: str, *, keep_all: bool = False) -> DeviceMesh:
        """The mesh of all ranks.

        Dimensions over 1 are named ``dp_replicate``, ``dp_shard``, ``cp``, ``tp``. Flattened views are ``dp`` (for
        reading data), ``dp_shard_cp`` (for sharding parameters) and ``dp_cp`` (for adding up losses), where they exist.

        Args:
            device_type: ``cuda`` or ``cpu``.
            keep_all: keep dimensions of size 1 too.
        """
        sizes = {"dp_replicate": self.dp_replicate, "dp_shard": self.dp_shard, "cp": self.cp, "tp": self.tp}
        used = {name: size for name, size in sizes.items() if keep_all or size > 1} or {"dp_shard": 1}
        mesh = init_device_mesh(device_type, tuple(used.values()), mesh_dim_names=tuple(used))
        views = {
            "dp": ("dp_replicate", "dp_shard"),
            "dp_shard_cp": ("dp_shard", "cp"),
            "dp_cp": ("dp_replicate", "dp_shard", "cp"),
        }
        for view, names in views.items():
            if present := tuple(name for name in names if name in used):
                mesh[present]._flatten(mesh_dim_name=view)
        return mesh

    @property
    def dp_enabled(self) -> bool:
        """Whether data are split over ranks."""
        return self.dp_replicate > 1 or self.dp_shard > 1

    @property
    def dp_replicate_enabled(self) -> bool:
        """Whether the model is replicated (HSDP)."""
        return self.dp_replicate > 1

    @property
    def dp_shard_enabled(self) -> bool:
        """Whether the model is sharded (FSDP)."""
        return self.dp_shard > 1

    @property
    def tp_enabled(self) -> bool:
        """Whether layers are split (tensor parallel)."""
        return self.tp > 1

    @property
    def cp_enabled(self) -> bool:
        """Whether sequences are split (context parallel)."""
        return self.cp > 1

    @property
    def non_data_parallel_size(self) -> int:
        """Ranks that see the same data."""
        return self.cp * self.tp

    @property
    def min_seq_len_divisor(self) -> int:
        """What sequence lengths must be a multiple of: ``tp`` for sequence parallel, ``2 * cp`` for balanced halves."""
        return self.tp * (self.cp * 2)


def prepare_mha_for_tp(model: nn.Module, tp_mesh: DeviceMesh) -> nn.Module:
    """The model, the head counts of each attention layer divided by the number of tensor parallel ranks in place.

    Args:
        model: a decoder, or a fusion model.
        tp_mesh: one-dimensional mesh.

    Raises:
        ValueError: if heads, key-value heads or the embedding can't be divided evenly.
    """
    from torchtune.modules import MultiHeadAttention

    size = tp_mesh.size()
    for name, module in model.named_modules():
        if not isinstance(module, MultiHeadAttention):
            continue
        counts = {key: getattr(module, key) for key in ("num_heads", "num_kv_heads", "embed_dim")}
        for key, count in counts.items():
            if count % size:
                raise ValueError(f"{name}.{key} ({count}) must be divisible by the tensor parallel size ({size})")
            setattr(module, key, count // size)
    return model


def get_context_parallel_manager(
    *, enabled: bool = False, rotate_method: str = "allgather", world_mesh: DeviceMesh, model: nn.Module
) -> Callable[[list[torch.Tensor]], AbstractContextManager[None]]:
    """What splits a batch along its sequences for the ranks of the mesh's ``cp`` dimension.

    Args:
        enabled: False gives a manager that does nothing.
        rotate_method: how keys and values travel: ``allgather`` or ``alltoall``.
        world_mesh: mesh with a ``cp`` dimension.
        model: the model, for checks.

    Returns:
        A function of the batch's tensors ``[b, s]``, to be used in a ``with`` statement around forward and backward. The
        batch must hold ``input_pos``: a rank's tokens aren't the first of their sequence.

    Raises:
        ValueError: if the mesh has no ``cp`` dimension, the method isn't known, or the model's attention is chunked.
    """
    if not enabled:
        return lambda buffers: nullcontext()
    if rotate_method not in ("allgather", "alltoall"):
        raise ValueError(f"context_parallel_rotate_method is {rotate_method!r}; expected 'allgather' or 'alltoall'")
    if "cp" not in (world_mesh.mesh_dim_names or ()):
        raise ValueError(f"Context parallel needs a mesh dimension 'cp' over 1; found {world_mesh.mesh_dim_names}")
    chunked = (type(m).__name__ == "Llama4ScaledRoPE" or hasattr(m, "attention_chunk_size") for m in model.modules())
    if any(chunked):
        raise ValueError("Context parallel doesn't support models with chunked attention (Llama 4)")

    @contextmanager
    def manager(buffers: list[torch.Tensor]) -> Generator[None, None, None]:
        from torch.distributed.tensor.experimental import context_parallel
        from torch.distributed.tensor.experimental._attention import set_rotate_method
        from torch.nn.attention import SDPBackend, sdpa_kernel

        set_rotate_method(rotate_method)
        dims = [1] * len(buffers)
        with (
            sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]),
            context_parallel(world_mesh["cp"], buffers=buffers, buffer_seq_dims=dims, no_restore_buffers=set(buffers)),
        ):
            yield

    return manager


def get_train_context(enable_loss_parallel: bool) -> Callable[..., AbstractContextManager[None]]:
    """A function of an optional context parallel context, which gives the context for forward and backward passes.

    Args:
        enable_loss_parallel: the logits are sharded over the vocabulary, and the cross entropy is computed on shards.
    """

    @contextmanager
    def context(cp_context: AbstractContextManager[Any] | None = None) -> Generator[None, None, None]:
        loss_context: AbstractContextManager[Any] = nullcontext()
        if enable_loss_parallel:
            from torch.distributed.tensor.parallel import loss_parallel

            loss_context = loss_parallel()
        with loss_context, cp_context or nullcontext():
            yield

    return context


class Parallelism:
    """The ranks of a run, and their shares of data, sequences and layers.

    Args:
        cfg: the recipe's config, whose keys on parallelism, FSDP and float8 are read.
        device: where the model is.

    Raises:
        ValueError: if the dims don't make up the number of ranks, or the device has no float8.
    """

    def __init__(self, cfg: DictConfig, device: torch.device) -> None:
        self.cfg = cfg
        self.world_size, rank = get_world_size_and_rank()
        self.dims = ParallelDims(
            dp_replicate=cfg.get("data_parallel_replicate_dim", 1),
            dp_shard=cfg.get("data_parallel_shard_dim", -1),
            cp=cfg.get("context_parallel_dim", 1),
            tp=cfg.get("tensor_parallel_dim", 1),
            world_size=self.world_size,
        )
        self.data_ranks, self.data_rank = self.dims.dp_replicate * self.dims.dp_shard, rank // self.copies
        self.copies_of_tokens = self.dims.tp
        self.mesh: DeviceMesh | None = None
        if self.world_size > 1:
            self.mesh = self.dims.build_mesh(device.type, keep_all=True)
        if cfg.get("enable_fp8_training"):
            _check_float8(device)
        self._loss_parallel = False

    @property
    def copies(self) -> int:
        """Ranks that read the same rows."""
        return self.dims.non_data_parallel_size

    def split_layers(self, model: nn.Module, loss_fn: nn.Module) -> None:
        """Float8, tensor parallel and context parallel, as the config says: before compiling and :meth:`shard`.

        Args:
            model: the model, changed in place; it may be on the meta device.
            loss_fn: the loss.

        Raises:
            ValueError: if the model can't be split in these ways.
        """
        cfg, float8 = self.cfg, bool(self.cfg.get("enable_fp8_training"))
        if float8:
            convert_to_float8_training(model, cfg.get("fp8_recipe_name"))
        if self.mesh is not None and self.dims.tp_enabled:
            plan = None
            if cfg.get("tensor_parallel_plan") is not None:
                from torchtune import config

                plan = config.instantiate(cfg.tensor_parallel_plan, model=model)
                _validate_float8_tp_plan(plan, cfg.get("fp8_recipe_name"))
            from torchtune.training._tensor_parallel import apply_tensor_parallel

            apply_tensor_parallel(model, self.mesh["tp"], plan, loss_fn)
            self._loss_parallel = getattr(loss_fn, "tp_requires_loss_parallel_ctx_manager", False)
        if self.mesh is not None and self.dims.cp_enabled:
            method = cfg.get("context_parallel_rotate_method", "allgather")
            apply_context_parallel(model, self.mesh["cp"].get_group(), method)

    def shard(self, model: nn.Module) -> None:
        """FSDP2 over the ranks of data and context parallel; with replicas, HSDP. One process is left as it is.

        Args:
            model: the model, changed in place.
        """
        if self.mesh is None:
            return
        if self.dims.tp_enabled:
            # Nothing here writes to outputs in place; and parameters on two mesh dimensions are gathered in two steps.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        shards = "dp_shard_cp" if self.dims.cp_enabled else "dp_shard"
        with warnings.catch_warnings():  # slices with a flattened dimension have no other name in all torch versions
            warnings.simplefilter("ignore")
            mesh = self.mesh["dp_replicate", shards] if self.dims.dp_replicate_enabled else self.mesh[shards]
        shard_model(
            model=model,
            shard_conditions=[partial(get_shard_conditions, names_to_match=self.cfg.get("custom_sharded_layers"))],
            cpu_offload=self.cfg.get("fsdp_cpu_offload", False),
            reshard_after_forward=self.cfg.get("fsdp_reshard_after_forward", True),
            dp_mesh=mesh,
        )

    def loss_context(self) -> AbstractContextManager[None]:
        """For forward and backward pass: logits stay split over the vocabulary where the loss asks for it."""
        return get_train_context(self._loss_parallel)()

    def own_part(self, batch: dict[str, Any], ignore_index: int = -100) -> dict[str, Any]:
        """The part of a batch's sequences that is this rank's, padded so that all are equal; all where nothing is
        split.

        Args:
            batch: ``tokens`` and ``labels`` ``[b, s]``, and what else the model takes.
            ignore_index: label of padding.

        Raises:
            ValueError: if packed sequences don't divide: their masks aren't padded.
        """
        if self.copies == 1:
            return batch
        multiple = self.dims.tp * (2 * self.dims.cp if self.dims.cp_enabled else 1)
        length = batch["tokens"].shape[1]
        missing = -length % multiple
        if missing and batch.get("mask") is not None:
            raise ValueError(
                f"The packed sequences have {length} tokens, which tensor and context parallel can't cut into {multiple} "
                f"equal parts; set tokenizer.max_seq_len to a multiple of {multiple}"
            )
        if missing:
            fill = {"tokens": 0, "labels": ignore_index, "input_pos": 0, "loss_weights": 0}
            padded = {key: F.pad(batch[key], (0, missing), value=fill[key]) for key in fill if key in batch}
            batch = {**batch, **padded}
        if self.mesh is None or not self.dims.cp_enabled:
            return batch
        return own_part(batch, self.mesh["cp"].get_group())


def _check_float8(device: torch.device) -> None:
    """Refuses devices that multiply no float8."""
    if device.type == "cuda" and (torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 9)):
        return
    found = device.type if device.type != "cuda" else torch.cuda.get_device_name(device)
    raise ValueError(
        f"enable_fp8_training: true needs a GPU that multiplies float8 (NVIDIA compute capability 8.9 or later: L4, L40, "
        f"H100, ...; AMD MI300), found {found}. Set it to false, and dtype: bf16"
    )
