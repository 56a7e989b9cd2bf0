"""Feed-forward layer, gated or not."""

from __future__ import annotations

from torch import Tensor, nn

from torchtune.modules._functional import swiglu


class FeedForward(nn.Module):
    """``down(activation(gate(x)) * up(x))``, or without ``up_proj`` ``down(activation(gate(x)))``.

    Args:
        gate_proj (nn.Module): ``d -> h``; called ``w1`` in state dicts.
        down_proj (nn.Module): ``h -> d``; ``w2``.
        up_proj (nn.Module | None): ``d -> h``; ``w3``.
        activation (nn.Module): of the gate.

    Source: https://arxiv.org/abs/2002.05202 (GLU Variants Improve Transformer).
    """

    def __init__(
        self,
        *,
        gate_proj: nn.Module,
        down_proj: nn.Module,
        up_proj: nn.Module | None = None,
        activation: nn.Module = nn.SiLU(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.w1 = gate_proj
        self.w2 = down_proj
        self.w3 = up_proj
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: ``[..., d] -> [..., d]``."""
        gate = self.w1(x)
        if self.w3 is None:
            return self.w2(self.activation(gate))
        if type(self.activation) is nn.SiLU:
            return self.w2(swiglu(gate, self.w3(x)))
        return self.w2(self.activation(gate) * self.w3(x))
