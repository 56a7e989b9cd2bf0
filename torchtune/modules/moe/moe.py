"""Mixture of experts: each token goes through the experts that its router chose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TokenChoiceTopKRouter(nn.Module):
    """Each token chooses the experts with the highest scores; the sigmoid of a score weights the token (Llama 4).

    Args:
        gate (nn.Module): ``dim -> num_experts``.
        dim (int): size of a token's vector.
        num_experts (int): number of experts.
        experts_per_token (int): how many each token chooses.
    """

    def __init__(self, *, gate: nn.Module, dim: int, num_experts: int, experts_per_token: int) -> None:
        super().__init__()
        self.gate = gate
        self.dim = dim
        self.num_experts = num_experts
        self.experts_per_token = experts_per_token

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The choices in the order of their experts: weights and indexes of tokens; and how many each expert got.

        Args:
            x (Tensor): tokens ``[n, dim]``.
        """
        weights, experts = self._choose(self.gate(x))
        weights = weights.to(x.dtype).view(-1)
        experts = experts.view(-1)
        order = experts.argsort(stable=True)
        counts = torch.zeros(self.num_experts, dtype=torch.int64, device=x.device)
        counts.scatter_add_(0, experts, torch.ones_like(experts))
        return weights[order], order // self.experts_per_token, counts

    def _choose(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Weights, in fp32, and indexes of each token's experts, ``[n, experts_per_token]``."""
        best, experts = scores.topk(self.experts_per_token, dim=1)
        return torch.sigmoid(best.float()), experts


class SoftmaxTopKRouter(TokenChoiceTopKRouter):
    """Each token chooses the experts with the highest scores; a softmax over scores weights them (Mixtral, Qwen3, gpt-oss).

    Args:
        normalize (bool): the weights of a token's experts sum to 1; else they are shares of all experts.
        **kwargs (Any): as of :class:`TokenChoiceTopKRouter`.
    """

    def __init__(self, *, normalize: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalize = normalize

    def _choose(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        best, experts = scores.topk(self.experts_per_token, dim=1)
        if self.normalize:
            return best.float().softmax(dim=1), experts
        return (best.float() - scores.float().logsumexp(dim=1, keepdim=True)).exp(), experts


class MoE(nn.Module):
    """Mixture of experts, and one that every token goes through (Llama 4, DeepSeekMoE https://arxiv.org/abs/2401.06066).

    Args:
        experts (nn.Module): such as :class:`~torchtune.modules.moe.GroupedExperts`.
        router (nn.Module): such as :class:`TokenChoiceTopKRouter`.
        shared_expert (nn.Module | None): a feed-forward layer for every token.
        weigh_outputs (bool): weigh what experts give (Qwen3, gpt-oss), not what they are given (Llama 4).
    """

    def __init__(
        self,
        *,
        experts: nn.Module,
        router: nn.Module,
        shared_expert: nn.Module | None = None,
        weigh_outputs: bool = False,
    ) -> None:
        super().__init__()
        self.experts = experts
        self.router = router
        self.shared_expert = shared_expert
        self.weigh_outputs = weigh_outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the chosen experts, and the shared one: ``[b, s, d] -> [b, s, d]``."""
        tokens = x.reshape(-1, x.shape[-1])
        weights, indexes, counts = self.router(tokens)
        weights, chosen = weights.unsqueeze(1), tokens[indexes]
        if self.weigh_outputs:
            chosen = self.experts(chosen, counts) * weights
        else:
            chosen = self.experts(chosen * weights, counts)
        shared = self.shared_expert(tokens) if self.shared_expert is not None else torch.zeros_like(tokens)
        return shared.index_add(0, indexes, chosen.to(shared.dtype)).view(x.shape)
