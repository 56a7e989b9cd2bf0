"""How a recipe is spread over ranks: one object that reads the config's dims and does what each of them asks for."""

from __future__ import annotations

import logging
import warnings
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from torchtune.training._context_parallel import apply_context_parallel, own_part
from torchtune.training._distributed import get_world_size_and_rank
from torchtune.training._parallel import ParallelDims, get_train_context
from torchtune.training._sharding import get_shard_conditions, shard_model
from torchtune.training.quantization import _validate_float8_tp_plan, convert_to_float8_training


class Parallelism:
    """The ranks of a run, and their shares of data, sequences and layers.

    Args:
        cfg: the config: ``data_parallel_replicate_dim``, ``data_parallel_shard_dim``, ``context_parallel_dim``,
            ``context_parallel_rotate_method``, ``tensor_parallel_dim``, ``tensor_parallel_plan``, ``fsdp_cpu_offload``,
            ``fsdp_reshard_after_forward``, ``custom_sharded_layers``, ``enable_fp8_training``, ``fp8_recipe_name``.
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
        with (
            warnings.catch_warnings()
        ):  # slices with a flattened dimension have no other name in every version of torch
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
        """The part of a batch's sequences that is this rank's, padded so that all are equal; the batch where nothing is
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
