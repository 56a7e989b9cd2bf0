"""Feed-forward layers of many experts, their weights in one tensor each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._functional import swiglu
from torchtune.modules.low_precision._nf4 import dequantize, is_nf4, to_nf4
from torchtune.modules.moe.utils import grouped_linear

_NAMES = ("gate", "down", "up")


def clamped_swiglu(gate: Tensor, up: Tensor, alpha: float = 1.702, limit: float = 7.0) -> Tensor:
    """The gated activation of gpt-oss, both inputs bounded, the linear one moved by one: ``[..., h] -> [..., h]``.

    Args:
        up (Tensor): ``[..., h]``.
        alpha (float): steepness of the sigmoid.
        limit (float): bound of ``gate`` from above, of ``up`` on both sides.

    Source: https://arxiv.org/abs/2508.10925 (gpt-oss model card).
    """
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


class _GroupedNF4(torch.autograd.Function):
    """Products with NF4 weights ``[e * d, h]``, which are dequantized anew in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
        ctx.weight, ctx.counts = weight, counts
        return grouped_linear(x, dequantize(weight, x.dtype).unflatten(0, (len(counts), -1)), counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weight = dequantize(ctx.weight, grad.dtype).unflatten(0, (len(ctx.counts), -1))
        return grouped_linear(grad.contiguous(), weight.transpose(1, 2), ctx.counts), None, None


class _Experts(nn.Module):
    """Weights and forward pass, without and with an adapter.

    Args:
        dim (int): size of a token's vector.
        hidden_dim (int): hidden size of one expert.
        num_experts (int): number of experts.
        activation (Callable[[Tensor], Tensor]): of the gate.
        glu (Callable[[Tensor, Tensor], Tensor] | None): of gate and up together, in place of ``activation(gate) * up``.
        bias (bool): each projection has a bias, ``gate_bias``, ``down_bias`` and ``up_bias``.
        quantize_base (bool): keep the weights in NF4, frozen.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        num_experts: int = 1,
        activation: Callable[[Tensor], Tensor] = F.silu,
        glu: Callable[[Tensor, Tensor], Tensor] | None = None,
        bias: bool = False,
        quantize_base: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.num_experts = dim, num_experts
        self.gate_proj = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.up_proj = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        for name, size in (("gate", hidden_dim), ("down", dim), ("up", hidden_dim)):
            setattr(self, f"{name}_bias", nn.Parameter(torch.zeros(num_experts, size)) if bias else None)
        self.act_fn = activation
        self.glu = glu

        self._init_weights()
        if quantize_base:
            self._quantize()

    def _init_weights(self) -> None:
        for weight in (self.gate_proj, self.down_proj, self.up_proj):
            bound = 1 / math.sqrt(weight.shape[1])  # as nn.Linear, whose weights are transposed
            if not is_nf4(weight):
                nn.init.uniform_(weight, -bound, bound)

    def _quantize(self) -> None:
        """Keep the weights in NF4, as matrices of all experts' rows; state dicts hold them plain and stacked."""
        shapes = {f"{name}_proj": getattr(self, f"{name}_proj").shape for name in _NAMES}
        for name in shapes:
            flat = to_nf4(getattr(self, name).detach().flatten(0, 1))
            setattr(self, name, nn.Parameter(flat, requires_grad=False))

        def on_load(
            module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any
        ) -> None:
            for name, shape in shapes.items():
                loaded = state_dict.get(prefix + name)
                if loaded is not None and loaded.shape == shape:
                    flat = loaded.flatten(0, 1)
                    assigned = metadata.get("assign_to_params_buffers")
                    state_dict[prefix + name] = to_nf4(flat.to(getattr(self, name).dtype)) if assigned else flat

        def on_save(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
            for name, shape in shapes.items():
                if is_nf4(state_dict.get(prefix + name)):
                    state_dict[prefix + name] = dequantize(state_dict[prefix + name]).view(shape).cpu()

        self.register_load_state_dict_pre_hook(on_load)
        self._register_state_dict_hook(on_save)

    def _project(self, x: Tensor, name: str, counts: Tensor) -> Tensor:
        """The projection gate, down or up of each token by its expert, ``[n, d] -> [n, h]``."""
        weight, bias = getattr(self, f"{name}_proj"), getattr(self, f"{name}_bias")
        project = _GroupedNF4.apply if is_nf4(weight) else grouped_linear
        out = project(x, weight, counts)
        if bias is None:
            return out
        rest = (x.shape[0] - counts.sum()).view(1)  # rows after the last expert's have no bias
        padded = torch.cat([bias, bias.new_zeros(1, bias.shape[1])])
        return out + padded.repeat_interleave(torch.cat([counts, rest]), dim=0, output_size=x.shape[0])

    def forward(self, x: Tensor, num_tokens_per_expert: Tensor) -> Tensor:
        """Apply each expert to its tokens: ``[n, dim] -> [n, dim]``, in the order of their experts.

        Args:
            num_tokens_per_expert (Tensor): how many tokens each expert has, ``[num_experts]``.
        """
        gate, up = (self._project(x, name, num_tokens_per_expert) for name in ("gate", "up"))
        glu = self.glu or (swiglu if self.act_fn is F.silu else lambda gate, up: self.act_fn(gate) * up)
        h = glu(gate, up)
        return self._project(h, "down", num_tokens_per_expert)


class GroupedExperts(_Experts):
    """Gated feed-forward layers, one per expert."""

    def reset_parameters(self) -> None:
        """Draw the weights, as ``nn.Linear`` draws its own."""
        self._init_weights()


class LoRAGroupedExperts(_Experts):
    """Experts with a low-rank update on each of their projections (LoRA, https://arxiv.org/abs/2106.09685).

    Args:
        rank (int): rank of the updates.
        alpha (float): their scale is ``alpha / rank``.
        dropout (float): dropout before the updates.
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
        glu: Callable[[Tensor, Tensor], Tensor] | None = None,
        bias: bool = False,
        quantize_base: bool = False,
    ) -> None:
        super().__init__(
            dim=dim,
            hidden_dim=hidden_dim,
            num_experts=num_experts,
            activation=activation,
            glu=glu,
            bias=bias,
            quantize_base=quantize_base,
        )
        self.rank, self.alpha = rank, alpha
        self.scaling = alpha / rank
        self.disabled = False
        self.dropout = nn.Dropout(p=dropout) if dropout > 0.0 else nn.Identity()
        for name, inner, outer in (("gate", dim, hidden_dim), ("down", hidden_dim, dim), ("up", dim, hidden_dim)):
            self.register_parameter(f"lora_{name}_a", nn.Parameter(torch.empty(num_experts, inner, rank)))
            self.register_parameter(f"lora_{name}_b", nn.Parameter(torch.empty(num_experts, rank, outer)))
        self.initialize_parameters()

    def initialize_parameters(self) -> None:
        """Draw the first factor of each update, set the second to zero."""
        for name in _NAMES:
            first = getattr(self, f"lora_{name}_a")
            bound = 1 / math.sqrt(first.shape[1])
            nn.init.uniform_(first, -bound, bound)
            nn.init.zeros_(getattr(self, f"lora_{name}_b"))

    def adapter_params(self) -> list[str]:
        """Names of the adapter's parameters: ``lora_gate_a``, ``lora_gate_b``, and so on for down and up."""
        return [f"lora_{name}_{factor}" for name in _NAMES for factor in "ab"]

    def _project(self, x: Tensor, name: str, counts: Tensor) -> Tensor:
        out = super()._project(x, name, counts)
        if self.disabled:
            return out
        narrow = grouped_linear(self.dropout(x), getattr(self, f"lora_{name}_a"), counts)
        return out + grouped_linear(self.scaling * narrow, getattr(self, f"lora_{name}_b"), counts)
