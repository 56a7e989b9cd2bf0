"""DoRA: LoRA with a learned magnitude per output row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules.low_precision._nf4 import dequantize
from torchtune.modules.peft.lora import _LowRankLinear


class DoRALinear(_LowRankLinear):
    """A linear layer whose rows keep a learned length while LoRA turns their direction.

    The norm of ``W + alpha / rank * B @ A`` is taken as a constant in the backward pass, as in the paper (section 4.3).

    Args:
        scale_bias (bool): stretch the bias along with the rows, as torchtune does; False leaves it as it is, as
            ``peft`` and a merged checkpoint do.

    Source: https://arxiv.org/abs/2402.09353 (DoRA).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        use_bias: bool = False,
        quantize_base: bool = False,
        scale_bias: bool = True,
        **quantization_kwargs: Any,
    ) -> None:
        super().__init__(in_dim, out_dim, rank, alpha, dropout, use_bias, quantize_base, **quantization_kwargs)
        self.scale_bias = scale_bias
        self.magnitude = nn.Parameter(torch.empty(out_dim))
        if not self.magnitude.is_meta:
            self.initialize_dora_magnitude()

    def to_empty(self, *, device: str | torch.device | int | None, recurse: bool = True) -> DoRALinear:
        super().to_empty(device=device, recurse=recurse)
        empty = torch.empty_like(self.magnitude, device=device)
        self.magnitude = nn.Parameter(empty, requires_grad=self.magnitude.requires_grad)
        return self

    @torch.no_grad()
    def initialize_dora_magnitude(self) -> None:
        """Set the magnitude to the rows' norm, so that the layer starts as its base. Call it after loading the weights.

        Raises:
            RuntimeError: if a parameter has no memory yet.
        """
        if any(p.is_meta for p in self.parameters()):
            raise RuntimeError(
                "Cannot initialize DoRA magnitude if base or adapter parameters are still on meta device. "
                "Load the base weights, then call to_empty() and initialize_parameters() first."
            )
        self.magnitude.copy_(self._row_norms())

    def _row_norms(self) -> Tensor:
        """Norm of each row of ``W + scaling * B @ A``, ``[out_dim]``."""
        base = dequantize(self.weight.detach(), self.lora_a.weight.dtype)
        return torch.linalg.norm(base + self.scaling * (self.lora_b.weight @ self.lora_a.weight), dim=1)

    def adapter_params(self) -> list[str]:
        return [*super().adapter_params(), "magnitude"]

    def forward(self, x: Tensor) -> Tensor:
        """Apply base, update and magnitude: ``[..., in_dim] -> [..., out_dim]``."""
        if self.disabled:
            return self._base(x, self.bias)
        late_bias = None if self.scale_bias else self.bias
        base = self._base(x, self.bias if self.scale_bias else None)
        update = self.lora_b(self.scaling * self.lora_a(self.dropout(x)))
        with torch.no_grad():
            norms = self._row_norms()
        out = (self.magnitude / norms) * (base + update)
        return out if late_bias is None else out + late_bias
