"""Tensor parallel for models of :class:`~torchtune.modules.TransformerDecoder`, adapters included."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from torchtune.modules import FeedForward, TransformerDecoder
from torchtune.modules.loss import SFTLoss
from torchtune.modules.peft import AdapterModule, LoRALinear
from torchtune.training._parallelism import prepare_mha_for_tp


class _SplitLoRA(ParallelStyle):
    """A style for linear layers, for one with a low-rank update: the wide sides are split, the rank is not."""

    def __init__(self, style: ColwiseParallel | RowwiseParallel) -> None:
        self.style = style
        rows = isinstance(style, ColwiseParallel)
        self.placements = {
            "weight": Shard(0 if rows else 1),
            "bias": Shard(0) if rows else Replicate(),
            "lora_a.weight": Replicate() if rows else Shard(1),
            "lora_b.weight": Shard(0) if rows else Replicate(),
        }

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def split(prefix: str, part: nn.Module, mesh: DeviceMesh) -> None:
            for name, value in list(part.named_parameters(recurse=False)):
                placement = self.placements[f"{prefix}.{name}" if prefix else name]
                placed = distribute_tensor(value, mesh, [placement], src_data_rank=None)
                part.register_parameter(name, nn.Parameter(placed, requires_grad=value.requires_grad))

        style: Any = self.style
        desired = style.desired_input_layouts if isinstance(style, ColwiseParallel) else (Shard(-1),)
        layouts = (style.input_layouts, desired)
        return distribute_module(
            module,
            device_mesh,
            split,
            lambda mod, inputs, mesh: style._prepare_input_fn(*layouts, mod, inputs, mesh),
            lambda mod, outputs, mesh: style._prepare_output_fn(
                style.output_layouts, style.use_local_output, mod, outputs, mesh
            ),
        )


def _check(model: nn.Module) -> TransformerDecoder:
    """Refuses what no plan here fits."""
    where = "tensor_parallel_dim > 1"
    if not isinstance(model, TransformerDecoder):
        raise ValueError(f"{where} works for plain text decoders; the model is a {type(model).__name__}. Set it to 1")
    for name, module in model.named_modules():
        if name.endswith(".mlp") and not isinstance(module, FeedForward):
            raise ValueError(f"{where}: {name} is a {type(module).__name__}, and only dense layers can be split")
        if isinstance(module, AdapterModule) and (type(module) is not LoRALinear or module._quantize_base):
            raise ValueError(
                f"{where}: {name} is a {type(module).__name__} or quantized; only plain LoRA can be split. Use FSDP alone "
                "(tensor_parallel_dim: 1)"
            )
    return model


def apply_tensor_parallel(
    model: nn.Module, mesh: DeviceMesh, plan: dict[str, ParallelStyle] | None = None, loss_fn: nn.Module | None = None
) -> None:
    """Split a decoder's layers over ranks, in place; what it returns is whole on each of them."""
    decoder = _check(model)
    if plan is None:
        from torchtune.models.llama3 import base_llama_tp_plan

        plan = base_llama_tp_plan(model)
    if isinstance(loss_fn, SFTLoss) and "output" in plan:
        plan = loss_fn.patch_tp_plan(plan)
    styles: dict[str, Any] = dict(plan)  # type: ignore[arg-type]
    for key, style in plan.items():  # type: ignore[union-attr]
        if not isinstance(style, ColwiseParallel | RowwiseParallel) or not key.startswith("layers.*."):
            continue
        if isinstance(decoder.layers[0].get_submodule(key.removeprefix("layers.*.")), LoRALinear):
            styles[key] = _SplitLoRA(style)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    prepare_mha_for_tp(model, mesh)
    parallelize_module(model, mesh, styles)
    for name, parameter in model.named_parameters():  # the styles make new parameters, all of them trained
        parameter.requires_grad_(trained[name])
    model.register_forward_hook(lambda _, __, output: _whole(output))


def _whole(output: Any) -> Any:
    """Tensors that were split over ranks, gathered."""
    if isinstance(output, list):
        return [_whole(part) for part in output]
    return output.full_tensor() if isinstance(output, DTensor) else output
