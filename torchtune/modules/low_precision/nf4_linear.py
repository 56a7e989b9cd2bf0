"""A frozen linear layer in NF4."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules.low_precision._nf4 import linear_nf4, quantize_assigned_weight, to_nf4


class FrozenNF4Linear(nn.Linear):
    """Linear layer whose weight is kept in NF4 and never trained; it computes in the input's dtype.

    Args:
        in_dim (int): input size.
        out_dim (int): output size.
        bias (bool): whether there is a bias, frozen and not quantized.
        device (torch.device | None): of the weight.
        dtype (torch.dtype | None): that the weight stands for; bf16 or fp32.
        **quantization_kwargs (Any): ``block_size`` and ``scaler_block_size`` of the conversion.

    Raises:
        ValueError: if the weight's size is no multiple of the block size.
        ImportError: without torchao.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        bias: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **quantization_kwargs: Any,
    ) -> None:
        super().__init__(in_dim, out_dim, bias=bias, device=device, dtype=dtype)
        self.weight = nn.Parameter(to_nf4(self.weight, **quantization_kwargs), requires_grad=False)
        quantize_assigned_weight(self, quantization_kwargs)
        if self.bias is not None:
            self.bias.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """Project the input: ``[..., in_dim] -> [..., out_dim]``."""
        return linear_nf4(input, self.weight, self.bias)
