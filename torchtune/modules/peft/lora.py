"""LoRA: a low-rank update beside a frozen linear layer."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules.low_precision._nf4 import linear_nf4, quantize_assigned_weight, to_nf4

if TYPE_CHECKING:
    from torchao.quantization.qat import FakeQuantizeConfigBase as FakeQuantizeConfig


class TrainableParams(Enum):
    """What of a component is trained."""

    FULL = "full"
    LORA = "lora"
    FROZEN = "frozen"


class _LowRankLinear(nn.Module):
    """Base weight, bias and low-rank factors of LoRA and DoRA layers.

    Args:
        in_dim (int): input size.
        out_dim (int): output size.
        rank (int): rank of the update.
        alpha (float): its scale is ``alpha / rank``.
        dropout (float): dropout before the update.
        use_bias (bool): whether the base has a bias.
        quantize_base (bool): keep the base weight in NF4 (QLoRA, QDoRA).
        **quantization_kwargs (Any): ``block_size`` and ``scaler_block_size`` of the conversion.

    Raises:
        ValueError: for quantization arguments without ``quantize_base``.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        use_bias: bool = False,
        quantize_base: bool = False,
        **quantization_kwargs: Any,
    ) -> None:
        super().__init__()
        if not quantize_base and quantization_kwargs:
            raise ValueError(
                f"``quantize_base`` is False, but received the following quantization arguments: {quantization_kwargs}"
            )
        self.in_dim, self.out_dim = in_dim, out_dim
        self.rank, self.alpha = rank, alpha
        self.scaling = alpha / rank
        self.use_bias = use_bias
        self._quantize_base = quantize_base
        base = nn.Linear(in_dim, out_dim, bias=use_bias)
        weight = nn.Parameter(to_nf4(base.weight, **quantization_kwargs)) if quantize_base else base.weight
        self.weight = weight
        if quantize_base:
            quantize_assigned_weight(self, quantization_kwargs)
        self.register_parameter("bias", base.bias)
        self.disabled = False
        self.dropout = nn.Dropout(p=dropout) if dropout > 0.0 else nn.Identity()
        self.lora_a = nn.Linear(in_dim, rank, bias=False)
        self.lora_b = nn.Linear(rank, out_dim, bias=False)
        self.initialize_parameters()

    def to_empty(self, *, device: str | torch.device | int | None, recurse: bool = True) -> _LowRankLinear:
        """This module; the adapter, and only it, gets memory on a device.

        Args:
            device (str | torch.device | int | None): where.
            recurse (bool): as in ``nn.Module.to_empty``.
        """
        self.lora_a.to_empty(device=device, recurse=recurse)
        self.lora_b.to_empty(device=device, recurse=recurse)
        return self

    def initialize_parameters(self) -> None:
        """Draw ``lora_a``, set ``lora_b`` to zero: the update starts at nothing."""
        nn.init.kaiming_uniform_(self.lora_a.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b.weight)

    def adapter_params(self) -> list[str]:
        """Names of the adapter's parameters."""
        return ["lora_a.weight", "lora_b.weight"]

    def _base(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The base layer's output ``[..., out_dim]``."""
        if self._quantize_base:
            return linear_nf4(x, self.weight, bias)
        return F.linear(x, self.weight, bias)


class LoRALinear(_LowRankLinear):
    """A linear layer with a low-rank update: ``x @ W.T + alpha / rank * dropout(x) @ A.T @ B.T``.

    ``requires_grad`` is not changed: :func:`~torchtune.modules.peft.set_trainable_params` freezes the base.

    Source: https://arxiv.org/abs/2106.09685 (LoRA), https://arxiv.org/abs/2305.14314 (QLoRA).
    """

    merged = False

    def forward(self, x: Tensor) -> Tensor:
        """Apply base and update: ``[..., in_dim] -> [..., out_dim]``."""
        out = self._base(x, self.bias)
        if self.disabled:
            return out
        # Scaling the narrow tensor costs less than scaling the wide one.
        return out + self.lora_b(self.scaling * self.lora_a(self.dropout(x)))


class QATLoRALinear(LoRALinear):
    """LoRA whose base weight and input are rounded as a quantized model's will be (quantization-aware training).

    Args:
        activation_qat_config (FakeQuantizeConfig | None): torchao's, of the input; None leaves it as it is.
        weight_qat_config (FakeQuantizeConfig | None): torchao's, of the base weight; None leaves it as it is.

    Raises:
        ValueError: if the group size of the weight doesn't divide ``in_dim``.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        activation_qat_config: FakeQuantizeConfig | None = None,
        weight_qat_config: FakeQuantizeConfig | None = None,
    ) -> None:
        super().__init__(in_dim, out_dim, rank, alpha, dropout, use_bias=False, quantize_base=False)
        self._set_quantizers(activation_qat_config, weight_qat_config)

    def _set_quantizers(self, activation: FakeQuantizeConfig | None, weight: FakeQuantizeConfig | None) -> None:
        group_size = getattr(weight, "group_size", None)
        if group_size and self.in_dim % group_size != 0:
            raise ValueError(f"in_dim ({self.in_dim}) must be divisible by the weight's group_size ({group_size})")
        self.activation_fake_quantizer, self.weight_fake_quantizer = (
            _fake_quantizer(activation),
            _fake_quantizer(weight),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the rounded base and the update: ``[..., in_dim] -> [..., out_dim]``."""
        out = F.linear(self.activation_fake_quantizer(x), self.weight_fake_quantizer(self.weight))
        if self.disabled:
            return out
        return out + self.lora_b(self.scaling * self.lora_a(self.dropout(x)))

    @classmethod
    def from_lora_linear(
        cls,
        lora_linear: LoRALinear,
        activation_qat_config: FakeQuantizeConfig | None = None,
        weight_qat_config: FakeQuantizeConfig | None = None,
    ) -> QATLoRALinear:
        """The QAT form of a LoRA layer; it shares its parameters.

        Args:
            lora_linear (LoRALinear): the layer.
            activation_qat_config (FakeQuantizeConfig | None): torchao's, of the input.
            weight_qat_config (FakeQuantizeConfig | None): torchao's, of the base weight.

        Raises:
            ValueError: if the layer has a bias or an NF4 base, or the group size doesn't divide its input size.
        """
        if lora_linear.bias is not None:
            raise ValueError("Bias is not supported in QAT + LoRA yet: build the layer with use_bias=False")
        if lora_linear._quantize_base:
            raise ValueError(
                "quantize_base is not compatible with QAT + LoRA: build the layer with quantize_base=False"
            )
        with torch.device("meta"):
            new = cls(
                lora_linear.in_dim,
                lora_linear.out_dim,
                lora_linear.rank,
                lora_linear.alpha,
                getattr(lora_linear.dropout, "p", 0.0),
            )
        # The fake quantizers may hold buffers: they are made on the default device.
        new._set_quantizers(activation_qat_config, weight_qat_config)
        new.weight = lora_linear.weight
        new.lora_a, new.lora_b = lora_linear.lora_a, lora_linear.lora_b
        new.disabled = lora_linear.disabled
        return new.train(lora_linear.training)


def _fake_quantizer(config: FakeQuantizeConfig | None) -> nn.Module:
    """torchao's module that rounds and scales back, or one that does nothing."""
    if config is None:
        return nn.Identity()
    from torchao.quantization import qat

    base = getattr(qat, "FakeQuantizerBase", None)
    return base.from_config(config) if base is not None else qat.FakeQuantizer(config)
