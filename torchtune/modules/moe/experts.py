"""Feed-forward layers of many experts, their weights in one tensor each."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._functional import swiglu
from torchtune.modules.moe.utils import grouped_linear


class _Experts(nn.Module):
    """Weights and forward pass, without and with an adapter."""

    def __init__(self, dim: int, hidden_dim: int, num_experts: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dim, self.num_experts = dim, num_experts
        self.gate_proj = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.up_proj = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.act_fn = activation

    def _init_weights(self) -> None:
        for weight in (self.gate_proj, self.down_proj, self.up_proj):
            bound = 1 / math.sqrt(weight.shape[1])  # as nn.Linear, whose weights are transposed
            nn.init.uniform_(weight, -bound, bound)

    def _project(self, x: Tensor, name: str, counts: Tensor) -> Tensor:
        """The projection gate, down or up of each token by its expert, ``[n, d] -> [n, h]``."""
        return grouped_linear(x, getattr(self, f"{name}_proj"), counts)

    def forward(self, x: Tensor, num_tokens_per_expert: Tensor) -> Tensor:
        """Apply each expert to its tokens.

        Args:
            x (Tensor): tokens in the order of their experts, ``[n, dim]``.
            num_tokens_per_expert (Tensor): how many of them each expert has, ``[num_experts]``.

        Returns:
            Tensor: ``[n, dim]``.
        """
        gate, up = (self._project(x, name, num_tokens_per_expert) for name in ("gate", "up"))
        h = swiglu(gate, up) if self.act_fn is F.silu else self.act_fn(gate) * up
        return self._project(h, "down", num_tokens_per_expert)


class GroupedExperts(_Experts):
    """Gated feed-forward layers, one per expert.

    Args:
        dim (int): size of a token's vector.
        hidden_dim (int): hidden size of one expert.
        num_experts (int): number of experts.
        activation (Callable[[Tensor], Tensor]): of the gate.
    """

    def __init__(
        self, *, dim: int, hidden_dim: int, num_experts: int = 1, activation: Callable[[Tensor], Tensor] = F.silu
    ) -> None:
        super().__init__(dim, hidden_dim, num_experts, activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights, as ``nn.Linear`` draws its own."""
        self._init_weights()


class LoRAGroupedExperts(_Experts):
    """Experts with a low-rank update on each of their projections (LoRA, https://arxiv.org/abs/2106.09685).

    Args:
        dim (int): size of a token's vector.
        hidden_dim (int): hidden size of one expert.
        rank (int): rank of the updates.
        alpha (float): their scale is ``alpha / rank``.
        dropout (float): dropout before the updates.
        num_experts (int): number of experts.
        activation (Callable[[Tensor], Tensor]): of the gate.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        num_experts: int = 1,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__(dim, hidden_dim, num_experts, activation)
        self.rank, self.alpha = rank, alpha
        self.scaling = alpha / rank
        self.disabled = False
        self.dropout = nn.Dropout(p=dropout) if dropout > 0.0 else nn.Identity()
        for name, inner, outer in (("gate", dim, hidden_dim), ("down", hidden_dim, dim), ("up", dim, hidden_dim)):
            self.register_parameter(f"lora_{name}_a", nn.Parameter(torch.empty(num_experts, inner, rank)))
            self.register_parameter(f"lora_{name}_b", nn.Parameter(torch.empty(num_experts, rank, outer)))
        self._init_weights()
        self.initialize_parameters()

    def initialize_parameters(self) -> None:
        """Draw the first factor of each update, set the second to zero."""
        for name in ("gate", "down", "up"):
            first = getattr(self, f"lora_{name}_a")
            bound = 1 / math.sqrt(first.shape[1])
            nn.init.uniform_(first, -bound, bound)
            nn.init.zeros_(getattr(self, f"lora_{name}_b"))

    def adapter_params(self) -> list[str]:
        """Names of the adapter's parameters.

        Returns:
            list[str]: ``lora_gate_a``, ``lora_gate_b``, and so on for down and up.
        """
        return [f"lora_{name}_{factor}" for name in ("gate", "down", "up") for factor in "ab"]

    def _project(self, x: Tensor, name: str, counts: Tensor) -> Tensor:
        out = super()._project(x, name, counts)
        if self.disabled:
            return out
        narrow = grouped_linear(self.dropout(x), getattr(self, f"lora_{name}_a"), counts)
        return out + grouped_linear(self.scaling * narrow, getattr(self, f"lora_{name}_b"), counts)
