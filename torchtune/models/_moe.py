"""The mixture of experts of a decoder's layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from torchtune.models._dense import Adapter, DecoderSpec
from torchtune.modules.moe import GroupedExperts, LoRAGroupedExperts, MoE, SoftmaxTopKRouter


def mixture_of_experts(
    spec: DecoderSpec,
    adapter: Adapter,
    index: int = 0,
    *,
    num_experts: int,
    experts_per_token: int,
    normalize: bool = True,
    bias: bool = False,
    glu: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> MoE:
    """The experts of one layer, ``spec.intermediate_dim`` wide, and their router: ``[b, s, d] -> [b, s, d]``.

    Where the feed-forward layers get an adapter, experts get LoRA (where DoRA is asked for too); the router gets none. In a
    quantized model the experts are NF4.
    """
    options: dict[str, Any] = {
        "dim": spec.embed_dim,
        "hidden_dim": spec.intermediate_dim,
        "num_experts": num_experts,
        "activation": spec.activation(),
        "glu": glu,
        "bias": bias,
        "quantize_base": adapter.quantize_base,
    }
    experts: nn.Module = (
        LoRAGroupedExperts(**options, rank=adapter.rank, alpha=adapter.alpha, dropout=adapter.dropout)
        if "w1" in adapter.targets
        else GroupedExperts(**options)
    )
    router = SoftmaxTopKRouter(
        gate=nn.Linear(spec.embed_dim, num_experts, bias=bias),
        dim=spec.embed_dim,
        num_experts=num_experts,
        experts_per_token=experts_per_token,
        normalize=normalize,
    )
    return MoE(experts=experts, router=router, weigh_outputs=True)
