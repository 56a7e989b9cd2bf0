"""The mixture of experts of a decoder's layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.models._dense import Adapter, DecoderSpec, feed_forward
from torchtune.modules.moe import GroupedExperts, LoRAGroupedExperts, MoE, SoftmaxTopKRouter, TokenChoiceTopKRouter


def mixture_of_experts(
    spec: DecoderSpec,
    adapter: Adapter,
    index: int = 0,
    *,
    num_experts: int,
    experts_per_token: int,
    router: Callable[..., TokenChoiceTopKRouter] = SoftmaxTopKRouter,
    shared: bool = False,
    quantizes: bool = True,
    bias: bool = False,
    glu: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> MoE:
    """The experts of one layer, ``spec.intermediate_dim`` wide, and their router: ``[b, s, d] -> [b, s, d]``.

    Where the feed-forward layers get an adapter, experts get LoRA (where DoRA is asked for too), the ``shared`` one that every
    token goes through as well; the router gets none. In a quantized model the experts are NF4 where ``quantizes``.
    """
    lora = {"rank": adapter.rank, "alpha": adapter.alpha, "dropout": adapter.dropout} if "w1" in adapter.targets else {}
    experts: Callable[..., nn.Module] = LoRAGroupedExperts if lora else GroupedExperts
    return MoE(
        experts=experts(
            dim=spec.embed_dim,
            hidden_dim=spec.intermediate_dim,
            num_experts=num_experts,
            activation=F.silu if spec.activation is nn.SiLU else spec.activation(),
            glu=glu,
            bias=bias,
            quantize_base=adapter.quantize_base and quantizes,
            **lora,
        ),
        router=router(
            gate=nn.Linear(spec.embed_dim, num_experts, bias=bias),
            dim=spec.embed_dim,
            num_experts=num_experts,
            experts_per_token=experts_per_token,
        ),
        shared_expert=feed_forward(spec, replace(adapter, use_dora=False)) if shared else None,
        weigh_outputs=router is not TokenChoiceTopKRouter,
    )
