"""FSDP2: sharding a model, and moving full state dicts into and out of sharded models and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys
from torch.optim import Optimizer

from torchtune.modules.layer_dropout import ModuleLayerDropoutWrapper
from torchtune.modules.low_precision._nf4 import dequantize, is_nf4, to_nf4
from torchtune.training._distributed import is_dtensor
from torchtune.training.memory import OptimizerInBackwardWrapper
from torchtune.training.precision import set_default_dtype

if TYPE_CHECKING:  # a run that isn't sharded doesn't wait for these
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def get_shard_conditions(
    name: str, module: nn.Module, names_to_match: list[str] | None = None, *args: Any, **kwargs: Any
) -> bool:
    """Whether a module is sharded as a unit: a layer (``layers.3``, also inside another module), or named on request.

    Args:
        name: the module's name.
        module: the module.
        names_to_match: full names of further modules, such as ``["tok_embeddings", "output"]``.
        *args: ignored.
        **kwargs: ignored.
    """
    if names_to_match and name in names_to_match:
        return True
    parts = name.split(".")
    return len(parts) >= 2 and parts[-2] == "layers" and parts[-1].isdigit()


def shard_model(
    model: nn.Module,
    shard_conditions: list[Callable[[str, nn.Module], bool]],
    *,
    cpu_offload: bool,
    reshard_after_forward: bool = True,
    dp_mesh: DeviceMesh | None = None,
) -> None:
    """Shard a model's parameters over ranks with FSDP2, in place.

    Args:
        model: the model, on any device.
        shard_conditions: a module for which one of these is true becomes a unit of its own; the rest belongs to the root.
        cpu_offload: keep parameters, gradients and optimizer states on the CPU.
        reshard_after_forward: free a unit's full parameters after its forward pass and gather them again for the backward
            pass. The root keeps its own until then in any case: the output layer is used by the loss.
        dp_mesh: ranks to shard over; two dimensions replicate over the first. None is all ranks.

    Raises:
        ValueError: if no module met a condition.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    options: dict[str, Any] = {"mesh": dp_mesh} if dp_mesh is not None else {}
    if cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
    sharded = 0
    for name, module in reversed(list(model.named_modules())):
        if any(condition(name, module) for condition in shard_conditions):
            try:
                fully_shard(module, reshard_after_forward=reshard_after_forward, **options)
            except AssertionError as error:  # torchao splits NF4 weights at whole blocks only
                if not any(is_nf4(parameter) for parameter in module.parameters()):
                    raise
                raise ValueError(
                    f"The NF4 weights of {name} can't be split evenly over the ranks ({error}). Use fewer ranks, or LoRA "
                    "without quantize_base."
                ) from error
            sharded += 1
    if sharded == 0:
        raise ValueError(
            "No layer modules were sharded. Please check if shard conditions are working as expected: they look for names "
            f"such as 'layers.0'; the model has {[name for name, _ in model.named_modules() if name][:5]} ..."
        )
    fully_shard(model, reshard_after_forward=None if reshard_after_forward else False, **options)


def validate_no_params_on_meta_device(model: nn.Module) -> None:
    """Check that every parameter and buffer has been loaded or initialised.

    Args:
        model: the model.

    Raises:
        RuntimeError: if one is still on the meta device.
    """
    for kind, named in (("param", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            if tensor.is_meta:
                raise RuntimeError(
                    f"Unexpected param or buffer {name} on meta device: the {kind} was neither in the checkpoint nor initialised."
                )


def _shard_nf4(full: torch.Tensor, target: DTensor) -> DTensor:
    """Quantize a full weight and keep this rank's rows."""
    from torch.distributed.tensor import DTensor, Shard

    local: Any = target._local_tensor
    mesh, placements = target.device_mesh, target.placements
    if placements != (Shard(0),):
        raise ValueError(f"NF4 weights can be sharded by rows over one mesh dimension, found placements {placements}")
    quantized = to_nf4(full, block_size=local.block_size, scaler_block_size=local.scaler_block_size)
    rows = torch.chunk(quantized, mesh.size(), dim=0)
    rank = mesh.get_local_rank()
    mine = rows[rank] if rank < len(rows) else rows[0][:0]
    return DTensor.from_local(mine, mesh, placements, run_check=False, shape=target.shape, stride=target.stride())


def _cut(full: torch.Tensor, target: DTensor) -> DTensor:
    """This rank's shard of a tensor that every rank has."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=None)


def _like(full: torch.Tensor, target: torch.Tensor, device: torch.device, cpu_offload: bool) -> torch.Tensor:
    """A full tensor in the form of ``target``: its dtype, its device, this rank's shard, quantized where it is."""
    full = full.to(device=device)
    if is_dtensor(target):
        if is_nf4(target._local_tensor):
            placed: torch.Tensor = _shard_nf4(full.to(target.dtype), target)
        else:
            # Every rank has the whole tensor, mapped from the file: each cuts its own shard and nothing is sent.
            placed = _cut(full.to(target.dtype), target)
    elif is_nf4(target):
        nf4: Any = target
        placed = full if is_nf4(full) else to_nf4(full, nf4.block_size, nf4.scaler_block_size)
    else:
        placed = full.to(target.dtype)
    return placed.cpu() if cpu_offload else placed


class MismatchError(RuntimeError):
    """A checkpoint that isn't one of the model that is built.

    Args:
        found: what differs.
    """

    def __init__(self, found: str) -> None:
        super().__init__(f"The checkpoint doesn't fit the model: {found}")


def _some(items: list[str], between: str) -> str:
    """The first of many, and how many there are."""
    more = f"{between}... ({len(items)} in all)" if len(items) > 5 else ""
    return between.join(items[:5]) + more


def load_from_full_model_state_dict(
    model: FSDPModule | nn.Module,
    full_sd: dict[str, Any],
    device: torch.device,
    strict: bool = False,
    cpu_offload: bool = False,
    use_distributed_state_dict: bool = False,
    release_sd: bool = True,
) -> _IncompatibleKeys:
    """The missing and unexpected keys of a full state dict, loaded into a (sharded) model, maybe on the meta device.

    Args:
        model: the model; its parameters take the place of those on the meta device.
        full_sd: full tensors by name, the same on every rank (a mapped file costs no memory).
        device: where the parameters go.
        strict: refuse missing and unexpected keys.
        cpu_offload: the model was sharded with CPU offload.
        use_distributed_state_dict: only rank 0's tensors are used, and sent to the others.
        release_sd: take tensors out of ``full_sd`` once they are placed.

    Raises:
        MismatchError: if shapes differ, or keys do and ``strict`` is set.
    """
    if use_distributed_state_dict:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        options = StateDictOptions(
            full_state_dict=True, broadcast_from_rank0=dist.is_initialized(), strict=strict, cpu_offload=cpu_offload
        )
        return set_model_state_dict(model=model, model_state_dict=full_sd, options=options)  # type: ignore[arg-type]
    # Not its state dict: hooks there give NF4 weights dequantized.
    module: Any = model
    key = _state_dict_key(module)
    tensors = [*module.named_buffers(), *module.named_parameters(remove_duplicate=False)]
    targets = {key(name): tensor for name, tensor in tensors}
    placed: dict[str, Any] = {}
    wrong = []
    for name in list(full_sd):
        full = full_sd.pop(name) if release_sd else full_sd[name]
        target = targets.get(name)
        if is_nf4(target) and full.dim() == 3:  # NF4 experts are one matrix
            full = full.flatten(0, 1)
        if target is None:
            placed[name] = full
        elif tuple(target.shape) != tuple(full.shape):
            wrong.append(f"{name}: checkpoint {tuple(full.shape)}, model {tuple(target.shape)}")
        else:
            placed[name] = _like(full, target, device, cpu_offload)
    if wrong:
        raise MismatchError(_some(wrong, "; "))
    result = model.load_state_dict(placed, strict=False, assign=True)  # type: ignore[union-attr]
    if strict and (result.missing_keys or result.unexpected_keys):
        lists = (("Missing", result.missing_keys), ("Unexpected", result.unexpected_keys))
        raise MismatchError(
            "; ".join(
                f"{what} key(s) in state_dict: {_some([key(k) for k in keys], ', ')}" for what, keys in lists if keys
            )
        )
    _compute_buffers(model, device)  # type: ignore[arg-type]
    return result


def _state_dict_key(model: nn.Module) -> Callable[[str], str]:
    """From a parameter's name to its key in the state dict, where wrappers (of checkpointing, ...) don't show."""
    wrapped = [name for name, module in model.named_modules() if isinstance(module, ModuleLayerDropoutWrapper)]
    inner = {f"{name}.module.": f"{name}." for name in wrapped}

    def key(name: str) -> str:
        for prefix, shown in inner.items():
            if name.startswith(prefix):
                name = shown + name[len(prefix) :]
        return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")

    return key


def _compute_buffers(model: nn.Module, device: torch.device) -> None:
    """Rotary tables aren't in checkpoints: a model from the meta device computes them."""
    for module in model.modules():
        if hasattr(module, "rope_init") and any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            with torch.device(device):
                module.rope_init()  # type: ignore[operator]


def _full(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """The whole of a sharded tensor; a collective operation where it is one."""
    if is_dtensor(tensor):
        sharded: Any = tensor if device is None or tensor.device.type == device.type else tensor.to(device)
        local = sharded._local_tensor
        if is_nf4(local):
            mesh, placements, shape, stride = sharded.device_mesh, sharded.placements, tensor.shape, tensor.stride()
            rows = dequantize(local)
            sharded = type(tensor).from_local(rows, mesh, placements, run_check=False, shape=shape, stride=stride)
        return sharded.full_tensor()
    return dequantize(tensor)


def gather_cpu_state_dict(
    model: FSDPModule | nn.Module,
    is_rank_zero: bool,
    device: torch.device | None = None,
    adapter_weights_only: bool = False,
) -> dict[str, Any]:
    """All of a sharded model's state dict, NF4 dequantized, on rank 0's CPU; every rank calls this.

    Args:
        model: the model; one that isn't sharded is copied.
        is_rank_zero: whether this rank keeps the tensors.
        device: where tensors are gathered, if CPU offload keeps them elsewhere.
        adapter_weights_only: only the adapter's tensors.
    """
    state_dict = model.state_dict()  # type: ignore[union-attr]
    if adapter_weights_only:
        from torchtune.modules.peft import get_adapter_state_dict

        state_dict = get_adapter_state_dict(state_dict, device=None)
    gathered = {}
    for name, tensor in state_dict.items():
        full = _full(tensor, device)
        if is_rank_zero:
            gathered[name] = full.cpu()
    return gathered


def get_full_optimizer_state_dict(
    model: FSDPModule | nn.Module, opt: Optimizer, is_rank_zero: bool, device: torch.device | None = None
) -> dict[str, Any]:
    """All of a sharded optimizer's state dict, as in one process, on rank 0's CPU. See :func:`gather_cpu_state_dict`.

    Args:
        opt: the optimizer.
    """
    sharded = opt.state_dict()
    state: dict[Any, dict[str, Any]] = {}
    for index, values in sharded["state"].items():
        full = {k: _full(v, device).cpu() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        if is_rank_zero:
            state[index] = full
    return {"param_groups": sharded["param_groups"], "state": state} if is_rank_zero else {}


def load_from_full_optimizer_state_dict(
    model: FSDPModule | nn.Module,
    opt: Optimizer | OptimizerInBackwardWrapper,
    full_sd: dict[str, Any],
    device: torch.device,
) -> None:
    """Load a full optimizer state dict into an optimizer of sharded parameters. See :func:`gather_cpu_state_dict`.

    Args:
        opt: the optimizer, with the same parameters in the same order as the one that was saved; or one per parameter.
        full_sd: state dict with full tensors, the same on every rank.
        device: where tensors are cut into shards.

    Raises:
        ValueError: if the numbers of parameters differ, or the state is one of another kind of optimizer.
        RuntimeError: if, with one optimizer per parameter, their names do.
    """
    if isinstance(opt, OptimizerInBackwardWrapper):
        if set(full_sd) != set(opt.optim_map):
            opt.load_state_dict(full_sd)  # says which parameters differ
        for name, single in opt.optim_map.items():
            load_from_full_optimizer_state_dict(model, single, full_sd[name], device)
        return
    parameters = [p for group in opt.param_groups for p in group["params"]]
    saved = [index for group in full_sd["param_groups"] for index in group["params"]]
    if len(parameters) != len(saved):
        raise ValueError(
            f"The optimizer has {len(parameters)} parameters, its saved state {len(saved)}. Resume with the model and the "
            "trainable layers of the run that was saved."
        )
    state: dict[Any, Mapping[str, Any]] = {}
    for parameter, index in zip(parameters, saved, strict=True):
        values = full_sd["state"].get(index)
        if values is not None:
            state[index] = {k: _place_like(v, parameter, device) for k, v in values.items()}
    settings = set(opt.param_groups[0])
    opt.load_state_dict({"param_groups": full_sd["param_groups"], "state": state})
    if missing := settings - set(opt.param_groups[0]):
        raise ValueError(
            f"The saved optimizer state is of another optimizer than {type(opt).__name__}: it lacks {sorted(missing)}. Resume "
            "with the optimizer of the run that was saved."
        )


def _place_like(value: Any, parameter: torch.Tensor, device: torch.device) -> Any:
    """A tensor with the parameter's shape is cut as the parameter is; anything else (a step count) stays."""
    if not isinstance(value, torch.Tensor) or not is_dtensor(parameter) or value.shape != parameter.shape:
        return value
    return _cut(value.to(device), parameter).to(parameter.device)


class _Gathered(dict[str, Any]):
    """A state dict whose tensors are gathered one by one, as they are taken out."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__(model.state_dict())
        self.device = device

    def pop(self, name: str, *_: Any) -> Any:
        return _full(super().pop(name), self.device)


def with_whole_layers(
    model: nn.Module, build: Callable[[], nn.Module], *, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """A copy, to answer with, of a model of tensor or context parallel, sharded by FSDP alone; every rank calls this.

    Args:
        model: the model that is trained.
        build: makes it once more, unsplit.
        device: where the copy goes.
        dtype: of its weights.
    """
    with set_default_dtype(dtype), torch.device("meta"):
        whole = build()
    shard_model(whole, [get_shard_conditions], cpu_offload=False)
    load_from_full_model_state_dict(whole, _Gathered(model, device), device, strict=True)
    return whole.requires_grad_(False).eval()
