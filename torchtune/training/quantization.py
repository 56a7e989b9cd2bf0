"""Quantizers by name; torchao is imported when one is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.distributed.tensor.parallel.style import ParallelStyle

__all__ = [
    "Int4WeightOnlyQATQuantizer",
    "Int4WeightOnlyQATQuantizerModuleSwap",
    "Int4WeightOnlyQuantizer",
    "Int8DynActInt4WeightQATQuantizer",
    "Int8DynActInt4WeightQATQuantizerModuleSwap",
    "Int8DynActInt4WeightQuantizer",
    "get_quantizer_mode",
]

# Name of a quantizer class to its mode, as recipes ask for it.
_MODES = {
    "Int4WeightOnlyQuantizer": "4w",
    "Int8DynActInt4WeightQuantizer": "8da4w",
    "Int4WeightOnlyQATQuantizer": "4w-qat",
    "Int8DynActInt4WeightQATQuantizer": "8da4w-qat",
    "Int4WeightOnlyQATQuantizerModuleSwap": "4w-qat-module-swap",
    "Int8DynActInt4WeightQATQuantizerModuleSwap": "8da4w-qat-module-swap",
}
# Made when they are asked for, see __getattr__.
Int4WeightOnlyQATQuantizer: Any
Int4WeightOnlyQATQuantizerModuleSwap: Any
Int8DynActInt4WeightQATQuantizer: Any
Int8DynActInt4WeightQATQuantizerModuleSwap: Any

_TORCHAO_NAMES = ("Int4WeightOnlyQATQuantizer", "Int8DynActInt4WeightQATQuantizer")
_SWAP_SUFFIX = "ModuleSwap"


class _GroupQuantizer:
    """Quantizes linear layers' weights in groups along the input."""

    groupsize: int

    def quantize(self, model: nn.Module) -> nn.Module:
        """The model, its linear layers quantized in place.

        Args:
            model: the model; its linear layers change.

        Raises:
            ValueError: if a layer's inputs don't divide into groups.
        """
        from torchao.quantization import quantize_

        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and module.in_features % self.groupsize:
                raise ValueError(
                    f"quantizer.groupsize is {self.groupsize}, which does not divide the {module.in_features} inputs of "
                    f"{name}; choose one that does, such as 32 or 64"
                )
        quantize_(model, self._config(on_gpu=next(model.parameters()).is_cuda))
        return model

    def _config(self, on_gpu: bool) -> Any:
        raise NotImplementedError


class Int4WeightOnlyQuantizer(_GroupQuantizer):
    """Quantize linear layers' weights to 4-bit integers, in groups along the input.

    On a GPU that is the layout of torch's own kernels, which want bf16; elsewhere the products are of plain torch.

    Args:
        groupsize: inputs that share a scale.
        inner_k_tiles: accepted so that old configs run; the kernels choose their own tiling.
    """

    def __init__(self, groupsize: int = 128, inner_k_tiles: int = 8) -> None:
        self.groupsize = groupsize
        self.inner_k_tiles = inner_k_tiles

    def _config(self, on_gpu: bool) -> Any:
        from torchao.quantization import Int4WeightOnlyConfig, IntxWeightOnlyConfig, MappingType, PerGroup

        if on_gpu:
            return Int4WeightOnlyConfig(group_size=self.groupsize, int4_packing_format="tile_packed_to_4d")  # type: ignore[arg-type]
        int4: Any = torch.int4  # type: ignore[attr-defined]
        groups, mapping = PerGroup(self.groupsize), MappingType.ASYMMETRIC
        return IntxWeightOnlyConfig(weight_dtype=int4, granularity=groups, mapping_type=mapping)


class Int8DynActInt4WeightQuantizer(_GroupQuantizer):
    """Quantize linear layers' weights to 4-bit integers, and their inputs to 8-bit ones when they come.

    Args:
        groupsize: inputs that share a scale of the weight.
    """

    def __init__(self, groupsize: int = 256) -> None:
        self.groupsize = groupsize

    def _config(self, on_gpu: bool) -> Any:
        from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup

        int4: Any = torch.int4  # type: ignore[attr-defined]
        return Int8DynamicActivationIntxWeightConfig(weight_dtype=int4, weight_granularity=PerGroup(self.groupsize))


def __getattr__(name: str) -> Any:
    base = name.removesuffix(_SWAP_SUFFIX)
    if base not in _TORCHAO_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import torchao.quantization.qat as qat

    quantizer: Any = getattr(qat, base)
    if name != base:  # torchao's quantizers swap modules now; the name stays for old configs
        quantizer = type(name, (quantizer,), {"__doc__": f"The same as :class:`{base}`.", "__module__": __name__})
    globals()[name] = quantizer
    return quantizer


def get_quantizer_mode(quantizer: Callable | None) -> str | None:
    """The mode of a quantizer: ``4w``, ``8da4w``, these with ``-qat`` or ``-qat-module-swap``; None for anything else.

    Args:
        quantizer: an object of one of this module's classes.
    """
    return _MODES.get(type(quantizer).__name__)


def is_fp8_tensorwise_scaling(fp8_recipe_name: str | None) -> bool:
    """Whether float8 training scales whole tensors: the default, and ``tensorwise``.

    Args:
        fp8_recipe_name: the config's ``fp8_recipe_name``.
    """
    return fp8_recipe_name is None or fp8_recipe_name == "tensorwise"


def convert_to_float8_training(model: nn.Module, fp8_recipe_name: str | None = None) -> nn.Module:
    """The model, its linear layers but the output computed in float8 from now on.

    Args:
        model: the model.
        fp8_recipe_name: ``tensorwise`` (with float8 all-gather), ``rowwise`` or ``rowwise_with_gw_hp``.
    """
    from torchao.float8 import Float8LinearConfig
    from torchao.float8 import convert_to_float8_training as convert

    if fp8_recipe_name is None:
        settings = Float8LinearConfig(enable_fsdp_float8_all_gather=True)
    else:
        settings = Float8LinearConfig.from_recipe_name(fp8_recipe_name)
    return convert(model, config=settings, module_filter_fn=lambda module, name: name != "output")


def _validate_float8_tp_plan(tp_plan: dict[str, ParallelStyle] | None, fp8_recipe_name: str | None = None) -> None:
    """Refuse a tensor parallel plan of float8 styles with a recipe that they don't work with.

    Raises:
        ValueError: if the plan has float8 styles and the recipe isn't ``tensorwise``.
    """
    if tp_plan is None or is_fp8_tensorwise_scaling(fp8_recipe_name):
        return
    float8 = [key for key, style in tp_plan.items() if "Float8" in type(style).__name__]
    if float8:
        raise ValueError(
            f"Float8 tensor parallel styles ({float8[0]}, ...) need the 'tensorwise' recipe, found fp8_recipe_name="
            f"{fp8_recipe_name!r}. Use the plan without float8, or another recipe."
        )


def swap_lora_linear_with_qat(
    module: nn.Module, activation_qat_config: Any | None = None, weight_qat_config: Any | None = None
) -> None:
    """Put a quantization-aware layer in the place of every LoRA layer, in place.

    Args:
        module: the model.
        activation_qat_config: how inputs are quantized, None for not.
        weight_qat_config: how weights are quantized, None for not.
    """
    from torchtune.modules.peft import LoRALinear, QATLoRALinear

    for name, child in module.named_children():
        if isinstance(child, LoRALinear):
            setattr(module, name, QATLoRALinear.from_lora_linear(child, activation_qat_config, weight_qat_config))
        else:
            swap_lora_linear_with_qat(child, activation_qat_config, weight_qat_config)


def prepare_qat(model: nn.Module, quantizer: Any) -> nn.Module:
    """The model with rounding layers in the place of its linear ones; names and weights stay.

    LoRA layers round their base weight and input; the adapters are not rounded.

    Args:
        model: the model, on any device.
        quantizer: a QAT quantizer of :mod:`torchtune.training.quantization`.

    Raises:
        ValueError: if the quantizer isn't one for training, or fits no layer.
    """
    mode = get_quantizer_mode(quantizer)
    if mode is None or "-qat" not in mode:
        raise ValueError(
            f"quantizer: {type(quantizer).__name__} is not one for training; use Int8DynActInt4WeightQATQuantizer or "
            "Int4WeightOnlyQATQuantizer, and the recipe 'quantize' to quantize a model that is trained"
        )
    from torchao.quantization.qat import FakeQuantizerBase

    from torchtune.modules.peft import AdapterModule

    weight = quantizer.get_weight_fake_quantize_config()
    if any(isinstance(module, AdapterModule) for module in model.modules()):
        swap_lora_linear_with_qat(model, quantizer.get_activation_fake_quantize_config(), weight)
    else:
        model = quantizer.prepare(model)
    if not any(isinstance(module, FakeQuantizerBase) for module in model.modules()):
        raise ValueError(
            f"quantizer: no linear layer has an input size that the group size {weight.group_size} divides; "
            "set a smaller quantizer.groupsize"
        )
    return model


def set_fake_quant(model: nn.Module, enabled: bool) -> None:
    """Turns the rounding of a model's layers on or off.

    Args:
        model: what :func:`prepare_qat` made.
        enabled: whether they round.
    """
    from torchao.quantization.qat import FakeQuantizerBase

    for module in model.modules():
        if isinstance(module, FakeQuantizerBase):
            module.enabled = enabled
