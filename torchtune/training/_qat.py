"""Quantization-aware training: layers whose weights and inputs are rounded as a quantizer will round them."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchtune.modules.peft import AdapterModule
from torchtune.training.quantization import get_quantizer_mode, swap_lora_linear_with_qat


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
